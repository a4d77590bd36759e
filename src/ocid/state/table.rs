//! Every pod or every container, by id. Readers take a snapshot and hold nothing up.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ocid::error::{Error, Result};
use crate::ocid::field::FieldError;

/// Things by their id of 64 hex digits.
#[derive(Debug)]
pub struct Table<T> {
    what: &'static str,
    entries: RwLock<BTreeMap<String, Arc<T>>>,
}

impl<T> Table<T> {
    /// `what` names an entry in errors.
    pub fn new(what: &'static str) -> Self {
        Self {
            what,
            entries: RwLock::default(),
        }
    }

    pub fn insert(&self, id: &str, entry: Arc<T>) {
        self.write().insert(id.to_owned(), entry);
    }

    pub fn remove(&self, id: &str) {
        self.write().remove(id);
    }

    /// By id, or by a prefix of one that fits no other.
    pub fn get(&self, id: &str) -> Option<Arc<T>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(id) {
            return Some(Arc::clone(entry));
        }
        if id.is_empty() {
            return None;
        }
        let mut fitting = entries
            .range(id.to_owned()..)
            .take_while(|(key, _)| key.starts_with(id));
        match (fitting.next(), fitting.next()) {
            (Some((_, entry)), None) => Some(Arc::clone(entry)),
            _ => None,
        }
    }

    /// Refuses what can name nothing: an id that is absent or fits several. An unknown one is none of its business.
    pub fn check(&self, field: &str, id: &str) -> Result<()> {
        let refused = |error: FieldError| Err(Arc::new(error.into()));
        if id.is_empty() {
            return refused(FieldError::required(field));
        }
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let fitting = entries.range(id.to_owned()..).take(2);
        let fitting = fitting.take_while(|(key, _)| key.starts_with(id)).count();
        if fitting > 1 && !entries.contains_key(id) {
            let problem = format!("is `{id}`, with which several ids begin");
            return refused(FieldError::new(field, problem));
        }
        Ok(())
    }

    /// As [`Table::get`]; an unknown id is an error.
    pub fn expect(&self, id: &str) -> Result<Arc<T>> {
        let unknown = || {
            Arc::new(Error::NotFound {
                what: self.what,
                id: id.to_owned(),
            })
        };
        self.get(id).ok_or_else(unknown)
    }

    /// All of them, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<T>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_find_what_they_name_alone() {
        let table = Table::new("container");
        for id in ["aa11", "aa22", "bb33"] {
            table.insert(id, Arc::new(id.to_owned()));
        }
        assert_eq!(*table.get("b").unwrap(), "bb33");
        assert_eq!(*table.get("aa2").unwrap(), "aa22");
        assert!(table.get("aa").is_none());
        assert!(table.get("").is_none());
        assert!(table.get("cc").is_none());
        assert_eq!(
            table.expect("cc").unwrap_err().to_string(),
            "container `cc` is not known"
        );
        assert!(table.check("id", "").is_err() && table.check("id", "aa").is_err());
        assert!(table.check("id", "aa1").is_ok() && table.check("id", "cc").is_ok());
        table.remove("aa11");
        assert_eq!(*table.get("aa").unwrap(), "aa22");
    }
}

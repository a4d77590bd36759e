//! Tables.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use super::visible;

/// Rows under headings. The last column is never padded, so nothing trails.
#[derive(Debug, Clone, Default)]
pub struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
    /// A column that is left out.
    without: Option<usize>,
    /// How wide a line may be.
    room: Option<usize>,
}

impl Table {
    /// A table with these headings.
    pub fn new(heads: &[&str]) -> Self {
        Self {
            heads: heads.iter().map(|&h| h.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// Lines of `name  value`, without headings.
    pub fn details() -> Self {
        Self::default()
    }

    /// Leaves a column out.
    pub fn without(mut self, column: Option<usize>) -> Self {
        self.without = column;
        self
    }

    /// Shortens the widest cells until the lines fit into `columns`, as far as that makes sense. Lines of name and
    /// value stay as they are: what they say is said nowhere else.
    pub fn fitting(mut self, columns: Option<usize>) -> Self {
        self.room = columns.filter(|_| !self.heads.is_empty());
        self
    }

    /// Adds a row; cells may come from elsewhere, so control characters are shown, not obeyed.
    pub fn row<I>(&mut self, cells: I)
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let cells = cells.into_iter().map(|c| visible(&c.into())).collect();
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || {
            let heads = Some(&self.heads).filter(|h| !h.is_empty());
            let lines = heads.into_iter().chain(&self.rows);
            lines.map(|line| {
                let cells = line.iter().enumerate();
                let shown = cells.filter(|(column, _)| Some(*column) != self.without);
                shown.map(|(_, cell)| cell)
            })
        };
        let mut widths: Vec<usize> = Vec::new();
        for line in lines() {
            for (column, cell) in line.enumerate() {
                let width = cell.chars().count();
                match widths.get_mut(column) {
                    Some(widest) => *widest = width.max(*widest),
                    None => widths.push(width),
                }
            }
        }
        if let Some(room) = self.room {
            narrow(&mut widths, room);
        }
        for line in lines() {
            let mut text = String::new();
            for (cell, &width) in line.zip(&widths) {
                let cell = shortened(cell, width);
                write!(text, "{cell:width$}{GAP}")?;
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// What stands between two columns.
const GAP: &str = "  ";
/// Ids in lists are this wide: enough to name the object again. No column is made narrower.
const NARROWEST: usize = 13;

/// Takes from the widest columns what lines have too much.
fn narrow(widths: &mut [usize], room: usize) {
    let gaps = widths.len().saturating_sub(1) * GAP.len();
    let mut surplus = (widths.iter().sum::<usize>() + gaps).saturating_sub(room);
    while surplus > 0 {
        let Some(widest) = widths.iter_mut().max().filter(|w| **w > NARROWEST) else {
            return;
        };
        *widest -= 1;
        surplus -= 1;
    }
}

fn shortened(cell: &str, width: usize) -> Cow<'_, str> {
    if cell.chars().count() <= width {
        return Cow::Borrowed(cell);
    }
    let kept: String = cell.chars().take(width.saturating_sub(1)).collect();
    Cow::Owned(kept + "\u{2026}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_trails() {
        let mut table = Table::new(&["ID", "NAME", "STATE"]);
        table.row(["0123", "redis", "running"]);
        table.row(["4", "a\tb", ""]);
        let expected = "ID    NAME   STATE\n0123  redis  running\n4     a\\tb\n";
        assert_eq!(table.to_string(), expected);
        assert_eq!(Table::new(&["ID"]).to_string(), "ID\n");
        assert_eq!(Table::details().to_string(), "");
    }

    #[test]
    fn the_widest_cells_give_way() {
        let mut table = Table::new(&["ID", "NAME", "IMAGE"]);
        table.row([
            "0123456789abc",
            "a-name-that-is-long",
            "registry/an/image-of-some-length:1",
        ]);
        let whole = table.to_string();
        assert!(whole.contains("a-name-that-is-long  registry/an/image-of-some-length:1\n"));
        assert_eq!(table.clone().fitting(Some(200)).to_string(), whole);
        let fitted = table.clone().fitting(Some(50)).to_string();
        for line in fitted.lines() {
            assert!(line.chars().count() <= 50, "{line}");
        }
        assert!(
            fitted.contains("0123456789abc  a-name-that-is-l\u{2026}  registry/an/ima\u{2026}\n"),
            "{fitted}"
        );
        // Too narrow for anything: what names an object stays.
        let least = table.fitting(Some(10)).to_string();
        assert!(
            least.contains("0123456789abc  a-name-that-\u{2026}  registry/an/\u{2026}\n"),
            "{least}"
        );
        let mut details = Table::details();
        details.row(["Name", "a value that is longer than that"]);
        assert!(
            details
                .fitting(Some(10))
                .to_string()
                .ends_with("than that\n")
        );
    }

    #[test]
    fn a_column_can_be_left_out() {
        let mut table = Table::new(&["A", "B", "C"]).without(Some(1));
        table.row(["1", "222222", "3"]);
        assert_eq!(table.to_string(), "A  C\n1  3\n");
    }
}

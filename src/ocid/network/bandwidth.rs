//! Traffic limits: pod annotations of Kubernetes, in its notation of quantities, for the bandwidth
//! plugin.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::NetworkError;

/// Bits per second that Kubernetes allows for a limit.
const ALLOWED: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// The largest burst (bits) that the plugin takes: the rate alone shall limit.
const BURST: u64 = i32::MAX as u64;

/// The capability `bandwidth` (CNI's CONVENTIONS.md); `None` where a pod has no limit.
pub(super) fn limits(
    annotations: &BTreeMap<String, String>,
) -> Result<Option<Value>, NetworkError> {
    let mut object = Map::new();
    for (field, rate, burst) in [
        (
            "annotation kubernetes.io/ingress-bandwidth",
            "ingressRate",
            "ingressBurst",
        ),
        (
            "annotation kubernetes.io/egress-bandwidth",
            "egressRate",
            "egressBurst",
        ),
    ] {
        let key = field.trim_start_matches("annotation ");
        let Some(text) = annotations.get(key) else {
            continue;
        };
        let bits = quantity(text).filter(|bits| ALLOWED.contains(bits));
        let bits = bits.ok_or_else(|| NetworkError::Pod {
            field,
            value: text.clone(),
            problem: "is no rate between 1k and 1P bits per second",
        })?;
        object.insert(rate.to_owned(), json!(bits));
        object.insert(burst.to_owned(), json!(BURST));
    }
    Ok((!object.is_empty()).then_some(Value::Object(object)))
}

/// A Kubernetes quantity as a whole number, rounded down: `10M`, `1.5Gi`, `1e6`.
fn quantity(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor: u128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent => {
            let power = exponent.strip_prefix(['e', 'E'])?.parse::<u32>().ok()?;
            10_u128.checked_pow(power)?
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
    let places = u32::try_from(fraction.len()).ok()?;
    u64::try_from(digits.checked_mul(factor)? / 10_u128.checked_pow(places)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, bits) in [
            ("1000", Some(1_000)),
            ("10M", Some(10_000_000)),
            ("1.5k", Some(1_500)),
            ("1Mi", Some(1 << 20)),
            ("0.5Gi", Some(1 << 29)),
            ("1e6", Some(1_000_000)),
            ("5E3", Some(5_000)),
            (".5k", Some(500)),
            ("", None),
            (".", None),
            ("M", None),
            ("1..5M", None),
            ("1m", None),
            ("-1M", None),
            ("1e999", None),
            ("99999999999999999999999999999999999999999E", None),
            ("1.00000000000000000000000000000000000000000", None),
        ] {
            assert_eq!(quantity(text), bits, "{text}");
        }
    }

    #[test]
    fn a_limit_out_of_range_is_refused() {
        for bad in ["999", "2P", "much"] {
            let all = [("kubernetes.io/egress-bandwidth".to_owned(), bad.to_owned())].into();
            let e = limits(&all).unwrap_err().to_string();
            assert!(
                e.starts_with("pod annotation kubernetes.io/egress-bandwidth `"),
                "{e}"
            );
        }
        assert!(limits(&BTreeMap::new()).unwrap().is_none());
    }
}

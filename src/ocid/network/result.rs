//! Results of ADD: of all they say, the daemon needs the pod's addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

/// The addresses of the pod's interface, in the plugin's order (the first is the primary one), from
/// a result of any version: `ips` since 0.3.0, `ip4` and `ip6` before. The error says what is wrong.
pub(super) fn addresses(result: &Value, interface: &str) -> Result<Vec<IpAddr>, String> {
    let mut ips = Vec::new();
    let mut add = |text: Option<&str>| {
        let text = text.ok_or("it has an address that is no string")?;
        let parsed = text.parse::<IpNet>().map(|net| net.addr());
        let ip = parsed
            .or_else(|_| text.parse::<IpAddr>())
            .map_err(|_| format!("it has `{text}` for an address"))?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
        Ok::<(), String>(())
    };
    for entry in result
        .get("ips")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if is_of(result, entry, interface) {
            add(entry.get("address").and_then(Value::as_str))?;
        }
    }
    for family in ["ip4", "ip6"] {
        if let Some(entry) = result.get(family).filter(|e| !e.is_null()) {
            add(entry.get("ip").and_then(Value::as_str))?;
        }
    }
    if ips.is_empty() {
        return Err("it gives the pod no address".to_owned());
    }
    Ok(ips)
}

/// An address without an interface is the pod's; one of an interface outside the pod, or of another
/// in it, is not.
fn is_of(result: &Value, entry: &Value, name: &str) -> bool {
    let index = entry.get("interface").and_then(Value::as_u64);
    let Some(index) = index.and_then(|i| usize::try_from(i).ok()) else {
        return true;
    };
    let Some(interface) = result.get("interfaces").and_then(|all| all.get(index)) else {
        return true;
    };
    let text = |key| {
        interface
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    !text("sandbox").is_empty() && text("name") == name
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(result: Value) -> Result<Vec<String>, String> {
        let ips = addresses(&result, "eth0")?;
        Ok(ips.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn results_of_every_version_are_read() {
        let old = json!({"ip4":{"ip":"10.1.0.2/16"},"ip6":{"ip":"fd00::2/64"},"dns":{}});
        assert_eq!(of(old).unwrap(), ["10.1.0.2", "fd00::2"]);
        let middle = json!({"ips":[{"version":"4","address":"10.1.0.2/16","interface":2}],
            "interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/ns"}]});
        assert_eq!(of(middle).unwrap(), ["10.1.0.2"]);
        let new = json!({"ips":[{"address":"fd00::2/64"},{"address":"10.1.0.2/16"},{"address":"10.1.0.2/16"}]});
        assert_eq!(of(new).unwrap(), ["fd00::2", "10.1.0.2"]);
    }

    #[test]
    fn the_hosts_and_other_addresses_are_not_the_pods() {
        let result = json!({"interfaces":[{"name":"cni0"},{"name":"net1","sandbox":"/ns"},{"name":"eth0","sandbox":"/ns"}],
            "ips":[{"address":"10.1.0.1/16","interface":0},{"address":"10.2.0.2/16","interface":1},
                {"address":"10.1.0.2/16","interface":2}]});
        assert_eq!(of(result).unwrap(), ["10.1.0.2"]);
    }

    #[test]
    fn no_address_or_a_wrong_one_is_an_error() {
        assert!(of(json!({})).unwrap_err().contains("no address"));
        assert!(of(json!({"ips": 7})).unwrap_err().contains("no address"));
        assert!(of(json!({"ips":[{}]})).unwrap_err().contains("no string"));
        assert!(
            of(json!({"ips":[{"address":"ten"}]}))
                .unwrap_err()
                .contains("`ten`")
        );
    }
}

//! A network of the self-test's own, so that the first real pod still gets the first address of the
//! node's: a bridge of another name, a subnet that nothing routes, leases in a folder that goes.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

use crate::host::{bridge, fs as durable};
use crate::template::{self, BridgeNetwork, TemplateError};

/// What every bridge of a self-test is called; random digits follow.
const BRIDGE: &str = "ocst";
const CONFLIST: &str = "10-selftest.conflist";
/// Room for the bridge and the pod, and a few leases more.
const PREFIX: u8 = 28;
/// Set aside for tests of networks (RFC 2544), hence rarely in use; then private ones.
const RANGES: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
];
/// How many subnets of a range are tried.
const TRIES: u32 = 64;

/// Why there is no network for the self-test.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("read the routes in `{path}`")]
    Routes { path: PathBuf, source: io::Error },
    #[error("find a subnet for the self-test: every one that was tried is routed already")]
    NoSubnet,
    #[error("render the self-test's network")]
    Render(#[from] TemplateError),
    #[error("write `{path}`")]
    Write { path: PathBuf, source: io::Error },
}

/// The self-test's network, as written.
pub struct TestNetwork {
    pub bridge: String,
    pub subnet: Ipv4Net,
}

/// Writes the conflist into `folder`/net.d, the fixed place where ocid looks for a self-test's pod.
/// `seed` makes the names of this run.
pub fn prepare(folder: &Path, cni_version: &str, seed: u32) -> Result<TestNetwork, NetworkError> {
    let routes = Path::new("/proc/net/route");
    let text = std::fs::read_to_string(routes).map_err(|source| NetworkError::Routes {
        path: routes.to_owned(),
        source,
    })?;
    let subnet = choose(&parse_routes(&text), seed).ok_or(NetworkError::NoSubnet)?;
    let network = BridgeNetwork {
        name: "ocid-selftest".to_owned(),
        bridge: format!("{BRIDGE}{seed:08x}"),
        subnet: subnet.to_string(),
        data_dir: Some(folder.join("leases")),
        cni_version: cni_version.to_owned(),
    };
    let text = template::render("cni/10-mynet.conflist", &network)?;
    let net_d = folder.join("net.d");
    let path = net_d.join(CONFLIST);
    std::fs::create_dir_all(&net_d)
        .and_then(|()| durable::write_atomic(&path, text.as_bytes(), 0o644))
        .map_err(|source| NetworkError::Write { path, source })?;
    Ok(TestNetwork {
        bridge: network.bridge,
        subnet,
    })
}

/// The bridge of the self-test whose conflist still stands in `folder`.
pub fn left_behind(folder: &Path) -> Option<String> {
    let bytes = durable::read_capped(&folder.join("net.d").join(CONFLIST), 64 << 10).ok()?;
    let network: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let name = network.pointer("/plugins/0/bridge")?.as_str()?;
    // Never anything but a bridge of ours, whatever the file says.
    name.starts_with(BRIDGE).then(|| name.to_owned())
}

/// Removes the bridge; gone already is fine.
pub fn remove_bridge(name: &str) -> io::Result<()> {
    bridge::remove(name).map(drop)
}

/// Destinations of the kernel's IPv4 routes, without the default one.
fn parse_routes(table: &str) -> BTreeSet<Ipv4Net> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            // The kernel prints the numbers as they lie in memory: network order on any machine.
            let address = |at: usize| {
                let raw = u32::from_str_radix(fields.get(at)?, 16).ok()?;
                Some(Ipv4Addr::from(raw.to_ne_bytes()))
            };
            let net = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?;
            (net.prefix_len() > 0).then(|| net.trunc())
        })
        .collect()
}

/// A subnet that overlaps none of `routed`.
fn choose(routed: &BTreeSet<Ipv4Net>, seed: u32) -> Option<Ipv4Net> {
    RANGES.iter().find_map(|(base, prefix)| {
        let subnets = 1u32 << (PREFIX - prefix);
        (0..TRIES).find_map(|nth| {
            // An odd stride meets every subnet before it repeats one.
            let index = seed.wrapping_add(nth.wrapping_mul(0x9e37_79b1)) % subnets;
            let offset = index << (32 - PREFIX);
            let candidate = Ipv4Net::new(Ipv4Addr::from(u32::from(*base) + offset), PREFIX).ok()?;
            let free = !routed.iter().any(|r| overlap(r, &candidate));
            free.then_some(candidate)
        })
    })
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        cni0\t0000580A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        broken line\n";

    #[test]
    fn routes_are_read() {
        // The table above is that of a little-endian machine, as all of ours are.
        let routes = parse_routes(TABLE);
        assert_eq!(routes, BTreeSet::from(["10.88.0.0/16".parse().unwrap()]));
        assert!(parse_routes("").is_empty());
    }

    #[test]
    fn a_free_subnet_is_chosen() {
        let none = BTreeSet::new();
        let first: Ipv4Net = "198.18.0.0/15".parse().unwrap();
        let private: Ipv4Net = "10.0.0.0/8".parse().unwrap();
        for seed in [0, 1, 0xffff_ffff, 77] {
            let subnet = choose(&none, seed).unwrap();
            assert_eq!(subnet, subnet.trunc());
            assert!(first.contains(&subnet));
            let again = choose(&BTreeSet::from([subnet]), seed).unwrap();
            assert!(!overlap(&again, &subnet));
            // A fake-address proxy has taken the whole first range.
            let second = choose(&BTreeSet::from([first]), seed).unwrap();
            assert!(private.contains(&second));
        }
        let all = BTreeSet::from(["0.0.0.0/1".parse().unwrap(), "128.0.0.0/1".parse().unwrap()]);
        assert_eq!(choose(&all, 5), None);
    }

    #[test]
    fn the_conflist_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(left_behind(dir.path()), None);
        let network = prepare(dir.path(), "1.0.0", 0xabc).unwrap();
        assert_eq!(network.bridge, "ocst00000abc");
        assert_eq!(left_behind(dir.path()), Some(network.bridge));
        let path = dir.path().join("net.d").join(CONFLIST);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(&network.subnet.to_string()), "{text}");
        assert!(text.contains("/leases\""), "{text}");
        std::fs::write(&path, text.replace("ocst00000abc", "cni0")).unwrap();
        assert_eq!(left_behind(dir.path()), None);
    }
}

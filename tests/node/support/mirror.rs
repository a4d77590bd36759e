//! The one way out of a machine: a forward proxy that apt in it is told to use, and that reaches what
//! the host's apt reaches. So a machine is one "that reaches only its package mirror".

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crio_setup::host::command::Command;
use hickory_resolver::TokioResolver;

use super::Machine;

const LIMIT: Duration = Duration::from_secs(30);

/// Packages fetched once by this process, by URL.
static PACKAGES: LazyLock<Mutex<HashMap<String, Arc<Vec<u8>>>>> = LazyLock::new(Mutex::default);

pub struct Mirror {
    listener: TcpListener,
}

impl Mirror {
    /// Opens the way and writes the apt configuration that uses it.
    pub fn open(machine: &Machine) -> Result<Self> {
        let listener = machine.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        machine.write(
            "/etc/apt/apt.conf.d/zz-test-mirror",
            format!(
                "Acquire::http::Proxy \"http://{address}\";\nAcquire::http::Pipeline-Depth \"0\";\nAcquire::Retries \"2\";\n"
            ),
            0o644,
        )?;
        let next = host_proxy()?;
        let accepting = listener.try_clone()?;
        std::thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                let next = next.clone();
                std::thread::spawn(move || {
                    if let Err(error) = relay(stream, next.as_deref()) {
                        eprintln!("package mirror: {error:#}");
                    }
                });
            }
        });
        Ok(Self { listener })
    }

    /// The proxy's address, for who is not told by the machine's own configuration of apt.
    pub fn url(&self) -> Result<String> {
        Ok(format!("http://{}", self.listener.local_addr()?))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let fd = self.listener.as_raw_fd();
        if let Err(error) = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both) {
            eprintln!("close the way to the mirror: {error}");
        }
    }
}

/// The host's own apt proxy as `host:port`, if it has one.
fn host_proxy() -> Result<Option<String>> {
    let output = Command::new("apt-config")
        .args(["shell", "PROXY", "Acquire::http::Proxy"])
        .run()?;
    let text = String::from_utf8(output.stdout)?;
    let value = text.trim().trim_start_matches("PROXY=").trim_matches('\'');
    let value = value.trim_start_matches("http://").trim_end_matches('/');
    Ok(Some(value.to_owned()).filter(|v| !v.is_empty()))
}

fn relay(client: TcpStream, proxy: Option<&str>) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let url = line
        .split(' ')
        .nth(1)
        .context("no request line")?
        .to_owned();
    let rest = url
        .strip_prefix("http://")
        .with_context(|| format!("only plain HTTP is relayed, not `{}`", line.trim()))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut headers = String::new();
    loop {
        line.clear();
        ensure!(reader.read_line(&mut line)? > 0, "cut in the headers");
        if line.trim().is_empty() {
            break;
        }
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        if !["connection", "proxy-connection", "keep-alive"].contains(&name.as_str()) {
            headers.push_str(&line);
        }
    }
    let whole = url.ends_with(".deb") && !headers.to_lowercase().contains("\nrange:");
    let mut client = client;
    if whole {
        let kept = PACKAGES.lock().ok().and_then(|p| p.get(&url).cloned());
        if let Some(kept) = kept {
            return Ok(client.write_all(&kept)?);
        }
    }
    let target = match proxy {
        Some(_) => format!("GET {url}"),
        None => format!("GET /{path}"),
    };
    let mut server = connect(proxy.unwrap_or(host))?;
    write!(
        server,
        "{target} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"
    )?;
    if !whole {
        std::io::copy(&mut server, &mut client)?;
        return Ok(());
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    if is_complete(&answer)
        && let Ok(mut packages) = PACKAGES.lock()
    {
        packages.insert(url, Arc::new(answer));
    }
    Ok(())
}

/// A 200 whose body is as long as it says.
fn is_complete(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length:"))
        .and_then(|l| l.trim().parse::<usize>().ok());
    let ok = head.lines().next().is_some_and(|l| l.contains(" 200"));
    ok && length == Some(answer.len() - end - 4)
}

/// Connects from the host's network; names are resolved without the C library, as everywhere.
fn connect(target: &str) -> Result<TcpStream> {
    let (host, port) = match target.split_once(':') {
        Some((host, port)) => (host, port.parse()?),
        None => (target, 80),
    };
    let addresses: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        Err(_) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(async {
                let found = TokioResolver::builder_tokio()?
                    .build()?
                    .lookup_ip(host)
                    .await;
                anyhow::Ok(found?.iter().collect())
            })
            .with_context(|| format!("resolve `{host}`"))?,
    };
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&SocketAddr::new(address, port), LIMIT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(LIMIT))?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no address")?).with_context(|| format!("connect to `{target}`"))
}

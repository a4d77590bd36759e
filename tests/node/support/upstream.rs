//! An upstream on loopback: serves release files by HTTP, whole or broken in the ways that networks
//! and servers break them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};

use super::Machine;

/// How a path is answered.
#[derive(Debug, Clone)]
pub enum Answer {
    Whole(Arc<Vec<u8>>),
    /// Announces everything, sends this many bytes, closes.
    Cut(Arc<Vec<u8>>, usize),
    /// Announces everything, sends this many bytes, then nothing, with the connection open.
    Stall(Arc<Vec<u8>>, usize),
    Status(u16),
}

type Routes = Arc<Mutex<HashMap<String, Answer>>>;

pub struct Upstream {
    address: SocketAddr,
    listener: TcpListener,
    routes: Routes,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// Serves on a free port of the machine's loopback until dropped.
    pub fn start(machine: &Machine) -> Result<Self> {
        let listener = machine.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let upstream = Self {
            address: listener.local_addr()?,
            listener,
            routes: Routes::default(),
            asked: Arc::default(),
        };
        let listener = upstream.listener.try_clone()?;
        let (routes, asked) = (upstream.routes.clone(), upstream.asked.clone());
        std::thread::spawn(move || {
            // Ends when the listener is shut down.
            for stream in listener.incoming().map_while(Result::ok) {
                let (routes, asked) = (routes.clone(), asked.clone());
                std::thread::spawn(move || {
                    // A client that goes away is its own business.
                    serve(stream, &routes, &asked).unwrap_or_default();
                });
            }
        });
        Ok(upstream)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn set(&self, path: &str, answer: Answer) -> Result<()> {
        let mut routes = self
            .routes
            .lock()
            .ok()
            .context("a server thread panicked")?;
        routes.insert(path.to_owned(), answer);
        Ok(())
    }

    /// The request lines so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().map(|a| a.clone()).unwrap_or_default()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let fd = self.listener.as_raw_fd();
        // Wakes the accepting thread, which then ends.
        if let Err(error) = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both) {
            eprintln!("stop the upstream: {error}");
        }
    }
}

fn serve(stream: TcpStream, routes: &Routes, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path = words.next().unwrap_or_default().to_owned();
        if let Ok(mut asked) = asked.lock() {
            asked.push(format!("{method} {path}"));
        }
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        let answer = routes.lock().ok().and_then(|r| r.get(&path).cloned());
        let (status, bytes, sent) = match &answer {
            Some(Answer::Whole(bytes)) => (200, bytes.as_slice(), bytes.len()),
            Some(Answer::Cut(bytes, sent) | Answer::Stall(bytes, sent)) => {
                (200, bytes.as_slice(), *sent)
            }
            Some(Answer::Status(status)) => (*status, &[][..], 0),
            None => (404, &[][..], 0),
        };
        let length = bytes.len();
        write!(
            writer,
            "HTTP/1.1 {status} As told\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        )?;
        if method == "HEAD" {
            continue;
        }
        writer.write_all(bytes.get(..sent).unwrap_or(bytes))?;
        match answer {
            Some(Answer::Cut(..)) => return writer.shutdown(Shutdown::Both),
            Some(Answer::Stall(..)) => {
                // Until the client has had enough.
                let mut rest = Vec::new();
                return reader.read_to_end(&mut rest).map(drop);
            }
            _ => {}
        }
    }
}

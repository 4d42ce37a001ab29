//! A way to a listener that can be cut for some processes and not for others.
//!
//! Guarantees: what is cut is neither refused nor closed: nothing comes through, as where a network
//! drops packets; what was held back comes through once it is whole again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::spawn;

/// The ids of the processes that are cut off.
type Cut = watch::Receiver<BTreeSet<u32>>;

/// A listener whose connections lead to another.
pub struct Relay {
    pub address: SocketAddr,
    cut: watch::Sender<BTreeSet<u32>>,
}

// === impl Relay ===

impl Relay {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, seen) = watch::channel(BTreeSet::new());
        spawn(async move {
            while let Ok((inside, from)) = listener.accept().await {
                spawn(carry(inside, target, owner(from.port()), seen.clone()));
            }
        });
        Self { address, cut }
    }

    /// Nothing of these processes comes through from now on; what others send does.
    pub fn cut(&self, processes: impl IntoIterator<Item = u32>) {
        self.cut.send_replace(processes.into_iter().collect());
    }
}

async fn whole(cut: &mut Cut, owner: Option<u32>) {
    let is_whole = |cut: &BTreeSet<u32>| owner.is_none_or(|owner| !cut.contains(&owner));
    // Who cuts may have gone, with the test.
    let _whole = cut.wait_for(is_whole).await;
}

async fn carry(inside: TcpStream, target: SocketAddr, owner: Option<u32>, mut cut: Cut) {
    whole(&mut cut, owner).await;
    let Ok(outside) = TcpStream::connect(target).await else {
        return;
    };
    let ((a, b), (c, d)) = (inside.into_split(), outside.into_split());
    tokio::join!(pump(a, d, owner, cut.clone()), pump(c, b, owner, cut));
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    owner: Option<u32>,
    mut cut: Cut,
) {
    let mut part = vec![0; 16 * 1024];
    loop {
        let some = from.read(&mut part).await.unwrap_or(0);
        whole(&mut cut, owner).await;
        if some == 0 || to.write_all(&part[..some]).await.is_err() {
            break;
        }
    }
    let _closed = to.shutdown().await;
}

/// The process of this machine that has a connection from this port of 127.0.0.1.
fn owner(port: u16) -> Option<u32> {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == local).then(|| words.nth(7).map(str::to_owned))?
    })?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| target == Path::new(&socket))
        })
    })
}

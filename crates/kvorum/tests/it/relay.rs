//! A network between the nodes that can be cut one way.
//!
//! Each node announces the address of a relay in place of its own to its peers. The relay looks at the
//! hello of whoever dials, which says from whom to whom the link is, and passes bytes on in both
//! directions, unless one of them is cut: then that one stands still, as it does when packets are lost,
//! and goes on where it stopped.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::nodes::{Node, cluster_with};
use crate::process::TempDir;

/// "kvorum-p", version, link, cluster, from, to, nonce.
const HELLO_LEN: usize = 8 + 1 + 1 + 8 + 8 + 8 + 32;
const FROM_AT: usize = 18;
const TO_AT: usize = 26;

/// How often what stands still looks whether it may go on.
const LOOK: Duration = Duration::from_millis(5);

/// The directions that are cut, as from and to.
#[derive(Clone, Default)]
pub(crate) struct Network {
    cut: Arc<Mutex<BTreeSet<(u64, u64)>>>,
}

impl Network {
    /// A relay to the node whose peers' port this is; its own port. It lives as long as the process.
    pub(crate) fn relay_to(&self, port: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let network = self.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let network = network.clone();
                thread::spawn(move || network.join(near, port));
            }
        });
        own
    }

    /// Nothing gets from one node to the other any more.
    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.lock().insert((from, to));
    }

    /// Everything gets everywhere.
    pub(crate) fn heal(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<(u64, u64)>> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a link of two connections, and of two threads.
    fn join(self, mut near: TcpStream, port: u16) -> Option<()> {
        let mut hello = [0; HELLO_LEN];
        near.read_exact(&mut hello).ok()?;
        let (from, to) = (number_at(&hello, FROM_AT), number_at(&hello, TO_AT));
        self.wait_for(from, to);
        let mut far = TcpStream::connect(("127.0.0.1", port)).ok()?;
        far.write_all(&hello).ok()?;
        let (near_too, far_too) = (near.try_clone().ok()?, far.try_clone().ok()?);
        let back = self.clone();
        thread::spawn(move || back.pass(to, from, far_too, near_too));
        self.pass(from, to, near, far);
        Some(())
    }

    fn wait_for(&self, from: u64, to: u64) {
        while self.lock().contains(&(from, to)) {
            thread::sleep(LOOK);
        }
    }

    /// Passes bytes on until one side ends, then ends the other. The end of a connection is a packet
    /// too.
    fn pass(&self, from: u64, to: u64, mut source: TcpStream, mut sink: TcpStream) {
        let _ = sink.set_nodelay(true);
        let mut bytes = vec![0; 64 << 10];
        let mut pass_some = || -> io::Result<bool> {
            let len = source.read(&mut bytes)?;
            self.wait_for(from, to);
            sink.write_all(&bytes[..len])?;
            Ok(len > 0)
        };
        while pass_some().unwrap_or(false) {}
        let _ = source.shutdown(Shutdown::Both);
        let _ = sink.shutdown(Shutdown::Both);
    }
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Node ids are given in the order of the nodes, from 1.
pub(crate) fn id(node: usize) -> u64 {
    node as u64 + 1
}

/// The other two of three.
pub(crate) fn others(node: usize) -> [usize; 2] {
    [(node + 1) % 3, (node + 2) % 3]
}

/// Three nodes that speak to each other through relays.
pub(crate) struct Relayed {
    pub(crate) nodes: Vec<Node>,
    pub(crate) ports: Vec<u16>,
    pub(crate) network: Network,
}

/// A cluster of new nodes with such a network.
pub(crate) fn relayed(dir: &TempDir) -> Relayed {
    let network = Network::default();
    let arguments = |port: u16| {
        let relay = network.relay_to(port + 100);
        vec!["--advertise-peer".to_owned(), format!("127.0.0.1:{relay}")]
    };
    let nodes = cluster_with(dir, 3, arguments, &[]);
    let ports = nodes.iter().map(|node| node.port).collect();
    Relayed {
        nodes,
        ports,
        network,
    }
}

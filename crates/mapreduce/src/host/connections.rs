//! The coordinator's socket: who may speak, and what they say.

use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::coordinator::WorkerId;
use crate::error::{Error, Result};
use crate::host::sync_directory;
use crate::job::Layout;
use crate::proof;
use crate::wire::{self, ToCoordinator, ToWorker};
use crate::worker::serve::Contact;
use kvorum_secret::Secret;

/// A worker that does not take what is sent to it for so long is not waited for.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// Who connects says hello within this time.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// What happens on connections.
pub(crate) enum Heard {
    /// A worker that holds the secret.
    Joined {
        worker: WorkerId,
        pid: u32,
        place: String,
        stream: TcpStream,
    },
    Said {
        worker: WorkerId,
        message: ToCoordinator,
    },
    Ended {
        worker: WorkerId,
    },
}

/// Where a coordinator is spoken to, and what is proved there.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// The address to listen on, HOST:PORT; port 0 is any.
    pub(crate) listen: String,
    pub(crate) secret: Secret,
    /// What a connection is for: a part of the proof.
    pub(crate) purpose: String,
}

/// Listens. The address is returned, with the port that was taken.
pub(crate) fn listen(door: &Door, to: Sender<Heard>) -> Result<String> {
    let (listener, address) = bind(&door.listen)?;
    let door = door.clone();
    std::thread::spawn(move || {
        let mut next = 0;
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, or reset before it was taken: others may still come.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            next += 1;
            let (worker, door, to) = (WorkerId(next), door.clone(), to.clone());
            std::thread::spawn(move || serve(stream, worker, &door, &to));
        }
    });
    Ok(address)
}

/// A listener, and the address at which others reach it.
pub(crate) fn bind(address: &str) -> Result<(TcpListener, String)> {
    let what = || Error::io(format!("listen on {address}"));
    let listener = TcpListener::bind(address).map_err(what())?;
    let bound = listener.local_addr().map_err(what())?;
    if bound.ip().is_unspecified() {
        return Err(Error::new(format!(
            "listen on an address that other machines can reach, not on {address}"
        )));
    }
    Ok((listener, bound.to_string()))
}

/// Writes address and secret into a file that only this user can read.
pub(crate) fn publish(layout: &Layout, contact: &Contact) -> Result<()> {
    let path = layout.contact();
    let fresh = path.with_extension("new");
    let what = || Error::io(format!("write {}", path.display()));
    let _ = std::fs::remove_file(&fresh);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(what())?;
    serde_json::to_writer(&file, contact).map_err(|error| Error::new(error.to_string()))?;
    std::fs::rename(&fresh, &path).map_err(what())?;
    sync_directory(&layout.job())
}

fn serve(mut stream: TcpStream, worker: WorkerId, door: &Door, to: &Sender<Heard>) {
    let mut prepare = || -> std::io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(SEND_PATIENCE))?;
        stream.set_read_timeout(Some(HELLO_PATIENCE))?;
        proof::accept(&door.secret, &mut stream, &door.purpose)?;
        stream.try_clone()
    };
    let Ok(reading) = prepare() else {
        return;
    };
    let mut reader = BufReader::new(reading);
    let (pid, place) = match wire::receive(&mut reader) {
        Ok(Some(ToCoordinator::Hello {
            version,
            pid,
            place,
        })) => {
            if version != wire::VERSION {
                let reason = "the worker is of another version".to_owned();
                let _ = wire::send(&mut stream, &ToWorker::Refused(reason));
                return;
            }
            (pid, place)
        }
        _ => return,
    };
    if stream.set_read_timeout(None).is_err() {
        return;
    }
    let joined = Heard::Joined {
        worker,
        pid,
        place,
        stream,
    };
    if to.send(joined).is_err() {
        return;
    }
    while let Ok(Some(message)) = wire::receive(&mut reader) {
        if to.send(Heard::Said { worker, message }).is_err() {
            return;
        }
    }
    let _ = to.send(Heard::Ended { worker });
}

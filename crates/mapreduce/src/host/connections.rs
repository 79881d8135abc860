//! The coordinator's socket: who may speak, and what they say.

use std::io::BufReader;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::coordinator::WorkerId;
use crate::error::{Error, Result};
use crate::host::sync_directory;
use crate::job::Layout;
use crate::wire::{self, ToCoordinator, ToWorker};
use crate::worker::serve::Contact;

/// A worker that does not take what is sent to it for so long is not waited for.
const SEND_PATIENCE: Duration = Duration::from_secs(2);
/// Who connects says hello within this time.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// What happens on connections.
pub(crate) enum Heard {
    /// A worker with the right secret.
    Joined {
        worker: WorkerId,
        pid: u32,
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

/// Listens on the loopback interface and writes where, with a fresh secret, into a file that only this user
/// can read.
pub(crate) fn listen(layout: &Layout, to: Sender<Heard>) -> Result<()> {
    let what = || Error::io("listen for workers");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(what())?;
    let address = listener.local_addr().map_err(what())?.to_string();
    let secret = secret()?;
    let contact = Contact {
        address,
        secret: secret.clone(),
    };
    publish(layout, &contact)?;
    std::thread::spawn(move || {
        let mut next = 0;
        for stream in listener.incoming() {
            let Ok(stream) = stream else {
                // Out of descriptors, or reset before it was taken: others may still come.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            next += 1;
            let (worker, secret, to) = (WorkerId(next), secret.clone(), to.clone());
            std::thread::spawn(move || serve(stream, worker, &secret, &to));
        }
    });
    Ok(())
}

fn publish(layout: &Layout, contact: &Contact) -> Result<()> {
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

/// 128 bits from the system.
fn secret() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(Error::io("read /dev/urandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn serve(mut stream: TcpStream, worker: WorkerId, secret: &str, to: &Sender<Heard>) {
    let prepare = || -> std::io::Result<TcpStream> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(SEND_PATIENCE))?;
        stream.set_read_timeout(Some(HELLO_PATIENCE))?;
        stream.try_clone()
    };
    let Ok(reading) = prepare() else {
        return;
    };
    let mut reader = BufReader::new(reading);
    let pid = match wire::receive(&mut reader) {
        Ok(Some(ToCoordinator::Hello {
            version,
            secret: theirs,
            pid,
        })) => {
            let refusal = if theirs != secret {
                "this is not the secret of the job"
            } else if version != wire::VERSION {
                "the worker is of another version"
            } else {
                ""
            };
            if !refusal.is_empty() {
                let _ = wire::send(&mut stream, &ToWorker::Refused(refusal.to_owned()));
                return;
            }
            pid
        }
        _ => return,
    };
    if stream.set_read_timeout(None).is_err() {
        return;
    }
    if to
        .send(Heard::Joined {
            worker,
            pid,
            stream,
        })
        .is_err()
    {
        return;
    }
    while let Ok(Some(message)) = wire::receive(&mut reader) {
        if to.send(Heard::Said { worker, message }).is_err() {
            return;
        }
    }
    let _ = to.send(Heard::Ended { worker });
}

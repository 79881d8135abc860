//! What a connection is and says of itself.

use kvorum_base::ConnId;
use kvorum_resp::Version;

/// What a connection is and says of itself.
#[derive(Debug)]
pub struct Profile {
    /// The connection.
    pub conn: ConnId,
    /// Its number for CLIENT ID; never given to another while the process lives.
    pub serial: u64,
    /// Where it comes from.
    pub address: String,
    /// Its name, if it has given itself one.
    pub name: Vec<u8>,
    /// The library that it says it is.
    pub lib_name: Vec<u8>,
    /// The version of that.
    pub lib_ver: Vec<u8>,
    opened_tick: u64,
    /// When it last sent something.
    pub active_tick: u64,
    /// The last command, for CLIENT LIST.
    pub last_command: &'static str,
    /// The protocol version that it speaks, for CLIENT LIST.
    pub protocol: u8,
}

impl Profile {
    /// A connection that has said nothing yet.
    #[must_use]
    pub fn new(conn: ConnId, serial: u64, address: &str, now_tick: u64) -> Self {
        Self {
            conn,
            serial,
            address: address.to_owned(),
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_ver: Vec::new(),
            opened_tick: now_tick,
            active_tick: now_tick,
            last_command: "NULL",
            protocol: Version::Resp2.number(),
        }
    }

    /// Its line in CLIENT LIST.
    #[must_use]
    pub fn line(&self, now_tick: u64) -> String {
        /// Ticks of 10 ms are what every configuration uses; nothing is decided by these figures.
        const TICKS_PER_SECOND: u64 = 100;
        let seconds = |since: u64| now_tick.saturating_sub(since) / TICKS_PER_SECOND;
        format!(
            "id={} addr={} laddr= fd=0 name={} age={} idle={} flags=N db=0 sub=0 psub=0 ssub=0 \
             multi=-1 watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 \
             omem=0 tot-mem=0 events=r cmd={} user=default redir=-1 resp={} lib-name={} lib-ver={}",
            self.serial,
            self.address,
            String::from_utf8_lossy(&self.name),
            seconds(self.opened_tick),
            seconds(self.active_tick),
            self.last_command,
            self.protocol,
            String::from_utf8_lossy(&self.lib_name),
            String::from_utf8_lossy(&self.lib_ver),
        )
    }
}

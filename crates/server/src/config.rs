//! Settings of one node, from flags, the environment and a TOML file, under the same names.
//!
//! One struct, [`NodeOptions`], is at once the command line and the file, so that the two cannot
//! drift apart: `--peer-listen`, `KVORUM_PEER_LISTEN` and `peer-listen = ...` are one field. A flag
//! beats the environment, which beats the file. [`NodeOptions::settle`] then fills in what was not
//! said and checks the whole once; behind it stands [`Settings`], which is believed.
//!
//! Whoever reaches an open port can read and write everything. So a node that listens beyond
//! loopback needs a password for its clients and a secret for its peers, and does not start without.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::identity::split_address;
use kvorum_secret::Secret;

/// Distance from a node's client port to its port for replica reads, where not said otherwise.
pub const REPLICA_PORT_OFFSET: u16 = 50;
/// Distance from a node's client port to its peer port, where not said otherwise.
pub const PEER_PORT_OFFSET: u16 = 100;
/// Distance from a node's client port to its HTTP port, where not said otherwise.
pub const HTTP_PORT_OFFSET: u16 = 200;

/// What can be said about a node, by flag, environment or file. Everything may be left out.
#[derive(clap::Args, Deserialize, Clone, Default, Debug)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeOptions {
    /// File with these settings (TOML; the same names without the dashes in front)
    #[arg(long, env = "KVORUM_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Data directory; an empty or missing one is a new node [default: ./kvorum-data/node]
    #[arg(long, env = "KVORUM_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Address for clients [default: 127.0.0.1:7001]
    #[arg(long, env = "KVORUM_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Address for clients that read from replicas: connections there only read [default: --listen with
    /// port + 50]
    #[arg(long, env = "KVORUM_REPLICA_LISTEN", value_name = "ADDR")]
    pub replica_listen: Option<SocketAddr>,

    /// Address for the other nodes [default: --listen with port + 100]
    #[arg(long, env = "KVORUM_PEER_LISTEN", value_name = "ADDR")]
    pub peer_listen: Option<SocketAddr>,

    /// Address for HTTP: health, metrics, status, administration [default: --listen with port + 200]
    #[arg(long, env = "KVORUM_HTTP", value_name = "ADDR")]
    pub http: Option<SocketAddr>,

    /// Host (or host:port) under which clients reach this node, and other nodes unless said
    /// otherwise [default: what it listens on]
    #[arg(long, env = "KVORUM_ADVERTISE", value_name = "HOST[:PORT]")]
    pub advertise: Option<String>,

    /// The same for clients that read from replicas
    #[arg(long, env = "KVORUM_ADVERTISE_REPLICA", value_name = "HOST[:PORT]")]
    pub advertise_replica: Option<String>,

    /// The same for the other nodes
    #[arg(long, env = "KVORUM_ADVERTISE_PEER", value_name = "HOST[:PORT]")]
    pub advertise_peer: Option<String>,

    /// The same for HTTP
    #[arg(long, env = "KVORUM_ADVERTISE_HTTP", value_name = "HOST[:PORT]")]
    pub advertise_http: Option<String>,

    /// Do not tell clients where replicas are: all reads go to the primaries, except those of who comes
    /// to --replica-listen by himself
    #[arg(long, env = "KVORUM_HIDE_REPLICAS")]
    pub hide_replicas: bool,

    /// Password that clients must give; needed to listen beyond loopback (prefer the file or the
    /// environment: other users of this machine can read flags)
    #[arg(
        long,
        env = "KVORUM_PASSWORD",
        value_name = "TEXT",
        hide_env_values = true
    )]
    pub password: Option<String>,

    /// File with the secret of the cluster, 64 hexadecimal digits, the same on all nodes; needed to
    /// listen beyond loopback (make one: `openssl rand -hex 32`)
    #[arg(long, env = "KVORUM_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// Most client connections at a time [default: 10000]
    #[arg(long, env = "KVORUM_MAX_CLIENTS", value_name = "N")]
    pub max_clients: Option<u32>,

    /// Most bytes of data; above it writes that need room are refused [default: none]
    #[arg(long, env = "KVORUM_MAX_MEMORY", value_name = "SIZE")]
    pub max_memory: Option<Size>,

    /// Shortest election timeout in milliseconds; the longest is twice that [default: 500]
    #[arg(long, env = "KVORUM_ELECTION_MS", value_name = "MS")]
    pub election_ms: Option<u64>,

    /// HTTP addresses of nodes of a running cluster: a new node asks them to be taken in
    #[arg(
        long,
        env = "KVORUM_JOIN",
        value_name = "ADDR,...",
        value_delimiter = ','
    )]
    pub join: Vec<String>,

    /// Milliseconds of silence after which a node counts as dead and its replicas are put on others
    /// [default: 300000]
    #[arg(long, env = "KVORUM_NODE_DEAD_MS", value_name = "MS")]
    pub node_dead_ms: Option<u64>,

    /// Where the log is synced: helper, inline, or auto (decides by what is going on) [default: auto]
    #[arg(long, env = "KVORUM_SYNC", value_name = "MODE")]
    pub sync: Option<SyncMode>,

    /// Bandwidth for writing snapshots, in bytes a second [default: 200mb]
    #[arg(long, env = "KVORUM_SNAPSHOT_BANDWIDTH", value_name = "SIZE")]
    pub snapshot_bandwidth: Option<Size>,

    /// Bandwidth for slots that move away from this node, in bytes a second [default: as much as the others
    /// take]
    #[arg(long, env = "KVORUM_MOVE_BANDWIDTH", value_name = "SIZE")]
    pub move_bandwidth: Option<Size>,

    /// Least important log lines to write: error, warn, info, debug [default: info]
    #[arg(long, env = "KVORUM_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// How log lines look: text or json [default: text]
    #[arg(long, env = "KVORUM_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Stop, as on SIGTERM, when standard input ends: for a parent that must not leave nodes behind
    #[arg(long, hide = true)]
    #[serde(skip)]
    pub stop_with_stdin: bool,
}

impl NodeOptions {
    /// Checks everything and fills in what was not said. Reads the files named by `--config` and
    /// `--secret-file`.
    ///
    /// # Errors
    /// With a sentence for the operator, if a file cannot be read or understood, or if the settings
    /// contradict each other.
    pub fn settle(self) -> Result<Settings, String> {
        let options = match &self.config {
            Some(path) => {
                let file = read_file(path)?;
                self.over(file)
            }
            None => self,
        };
        let listen = options
            .listen
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7001)));
        let beside = |given: Option<SocketAddr>, offset: u16, name: &str| match given {
            Some(address) => Ok(address),
            None => listen
                .port()
                .checked_add(offset)
                .map(|port| SocketAddr::new(listen.ip(), port))
                .ok_or_else(|| {
                    format!(
                        "--{name} must be given: port {} + {offset} is too large",
                        listen.port()
                    )
                }),
        };
        let replica_listen = beside(
            options.replica_listen,
            REPLICA_PORT_OFFSET,
            "replica-listen",
        )?;
        let peer_listen = beside(options.peer_listen, PEER_PORT_OFFSET, "peer-listen")?;
        let http = beside(options.http, HTTP_PORT_OFFSET, "http")?;
        let secret = options
            .secret_file
            .as_deref()
            .map(Secret::read)
            .transpose()?;
        let advertised = Advertised {
            client: advertise(&[&options.advertise], listen, "advertise")?,
            replica: advertise(
                &[&options.advertise_replica, &host_of(&options.advertise)],
                replica_listen,
                "advertise-replica",
            )?,
            peer: advertise(
                &[&options.advertise_peer, &host_of(&options.advertise)],
                peer_listen,
                "advertise-peer",
            )?,
            http: advertise(
                &[&options.advertise_http, &host_of(&options.advertise)],
                http,
                "advertise-http",
            )?,
        };
        let settings = Settings {
            dir: options
                .dir
                .unwrap_or_else(|| PathBuf::from("kvorum-data/node")),
            listen,
            replica_listen,
            peer_listen,
            http,
            advertised,
            hide_replicas: options.hide_replicas,
            password: options.password.filter(|password| !password.is_empty()),
            secret,
            max_clients: options.max_clients.unwrap_or(10_000).max(1),
            max_memory: options.max_memory.map(|size| size.0),
            election_ms: options.election_ms.unwrap_or(500),
            join: options.join,
            node_dead_ms: options.node_dead_ms.unwrap_or(300_000),
            sync: options.sync.unwrap_or(SyncMode::Auto),
            snapshot_bandwidth: options.snapshot_bandwidth.map_or(200 << 20, |size| size.0),
            move_bandwidth: options.move_bandwidth.map(|size| size.0),
            log_level: options.log_level.unwrap_or(LogLevel::Info),
            log_format: options.log_format.unwrap_or(LogFormat::Text),
            stop_with_stdin: options.stop_with_stdin,
        };
        settings.check()?;
        Ok(settings)
    }

    /// These options, with what they leave open taken from `file`.
    fn over(self, file: Self) -> Self {
        Self {
            config: self.config,
            dir: self.dir.or(file.dir),
            listen: self.listen.or(file.listen),
            replica_listen: self.replica_listen.or(file.replica_listen),
            peer_listen: self.peer_listen.or(file.peer_listen),
            http: self.http.or(file.http),
            advertise: self.advertise.or(file.advertise),
            advertise_replica: self.advertise_replica.or(file.advertise_replica),
            advertise_peer: self.advertise_peer.or(file.advertise_peer),
            advertise_http: self.advertise_http.or(file.advertise_http),
            hide_replicas: self.hide_replicas || file.hide_replicas,
            password: self.password.or(file.password),
            secret_file: self.secret_file.or(file.secret_file),
            max_clients: self.max_clients.or(file.max_clients),
            max_memory: self.max_memory.or(file.max_memory),
            election_ms: self.election_ms.or(file.election_ms),
            join: if self.join.is_empty() {
                file.join
            } else {
                self.join
            },
            node_dead_ms: self.node_dead_ms.or(file.node_dead_ms),
            sync: self.sync.or(file.sync),
            snapshot_bandwidth: self.snapshot_bandwidth.or(file.snapshot_bandwidth),
            move_bandwidth: self.move_bandwidth.or(file.move_bandwidth),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
            stop_with_stdin: self.stop_with_stdin,
        }
    }
}

fn read_file(path: &Path) -> Result<NodeOptions, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the configuration {}: {error}", path.display()))?;
    toml::from_str(&text).map_err(|error| format!("in {}: {error}", path.display()))
}

/// The settings of one node, complete and checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data directory.
    pub dir: PathBuf,
    /// For clients.
    pub listen: SocketAddr,
    /// For clients that read from replicas.
    pub replica_listen: SocketAddr,
    /// For the other nodes.
    pub peer_listen: SocketAddr,
    /// For HTTP.
    pub http: SocketAddr,
    /// Where others reach this node.
    pub advertised: Advertised,
    /// Whether clients are not told where replicas are.
    pub hide_replicas: bool,
    /// What clients must give, if anything.
    pub password: Option<String>,
    /// The secret of the cluster, if the operator chose it.
    pub secret: Option<Secret>,
    /// Most client connections at a time; at least 1.
    pub max_clients: u32,
    /// Most bytes of data.
    pub max_memory: Option<u64>,
    /// Shortest election timeout, in milliseconds.
    pub election_ms: u64,
    /// Whom a new node asks to be taken in; nobody, if it waits to be made part of a new cluster.
    pub join: Vec<String>,
    /// Milliseconds of silence that make a node dead.
    pub node_dead_ms: u64,
    /// Where the log is synced.
    pub sync: SyncMode,
    /// Bytes a second for snapshots.
    pub snapshot_bandwidth: u64,
    /// Bytes a second for slots that move away.
    pub move_bandwidth: Option<u64>,
    /// Least important log lines to write.
    pub log_level: LogLevel,
    /// How they look.
    pub log_format: LogFormat,
    /// Whether the end of standard input stops the node.
    pub stop_with_stdin: bool,
}

impl Settings {
    fn check(&self) -> Result<(), String> {
        if self.password.is_none() {
            for (name, address) in [
                ("listen", self.listen),
                ("replica-listen", self.replica_listen),
            ] {
                if !address.ip().is_loopback() {
                    return Err(format!(
                        "refusing to listen on {address} (--{name}) without authentication: anyone who \
                         reaches it could read and change everything. Set a password (KVORUM_PASSWORD, \
                         or password = \"...\" in the configuration file), or listen on 127.0.0.1"
                    ));
                }
            }
        }
        if !(50..=60_000).contains(&self.election_ms) {
            return Err(format!(
                "--election-ms {} is out of range: 50 to 60000",
                self.election_ms
            ));
        }
        if self.node_dead_ms < 10 * self.election_ms {
            return Err(format!(
                "--node-dead-ms {} is too short: at least ten election timeouts, {}",
                self.node_dead_ms,
                10 * self.election_ms
            ));
        }
        if self.snapshot_bandwidth < 1 << 20 {
            return Err("--snapshot-bandwidth must be at least 1mb".to_owned());
        }
        if self.move_bandwidth.is_some_and(|bytes| bytes < 64 << 10) {
            return Err("--move-bandwidth must be at least 64kb".to_owned());
        }
        let mut ports = [
            self.listen,
            self.replica_listen,
            self.peer_listen,
            self.http,
        ];
        ports.sort();
        if let Some(pair) = ports
            .windows(2)
            .find(|pair| pair[0] == pair[1] && pair[0].port() != 0)
        {
            return Err(format!(
                "{} is used twice: each kind of traffic has its own port",
                pair[0]
            ));
        }
        Ok(())
    }

    /// Whether the peer or HTTP port can be reached from other machines.
    #[must_use]
    pub fn beyond_loopback(&self) -> bool {
        !(self.peer_listen.ip().is_loopback() && self.http.ip().is_loopback())
    }
}

/// Where others reach a node: `host:port` each; the host may be a name.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, Deserialize)]
pub struct Advertised {
    /// For clients.
    pub client: String,
    /// For clients that read from replicas.
    pub replica: String,
    /// For the other nodes.
    pub peer: String,
    /// For HTTP.
    pub http: String,
}

impl Advertised {
    /// The same, as the shard manager keeps it.
    ///
    /// # Errors
    /// If one is not HOST:PORT.
    pub fn to_cluster(&self) -> Result<kvorum_cluster::Addresses, String> {
        let address = |text: &str| {
            let (host, port) = split_address(text)?;
            Ok::<_, String>(kvorum_cluster::Address {
                host: host.to_owned(),
                port,
            })
        };
        Ok(kvorum_cluster::Addresses {
            client: address(&self.client)?,
            replica: address(&self.replica)?,
            peer: address(&self.peer)?,
            http: address(&self.http)?,
            other_names: Vec::new(),
        })
    }

    /// What the shard manager keeps, as text again.
    #[must_use]
    pub fn from_cluster(addresses: &kvorum_cluster::Addresses) -> Self {
        Self {
            client: addresses.client.to_string(),
            replica: addresses.replica.to_string(),
            peer: addresses.peer.to_string(),
            http: addresses.http.to_string(),
        }
    }
}

/// The first given of these, completed with the port listened on.
fn advertise(given: &[&Option<String>], listen: SocketAddr, name: &str) -> Result<String, String> {
    let Some(text) = given.iter().find_map(|text| text.as_deref()) else {
        return if listen.ip().is_unspecified() {
            Err(format!(
                "listening on {listen} does not say where others reach this node: give --{name} HOST"
            ))
        } else {
            Ok(listen.to_string())
        };
    };
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, listen.port()).to_string());
    }
    match text.rsplit_once(':') {
        None if is_host(text) => Ok(format!("{text}:{}", listen.port())),
        Some((host, port))
            if is_host(host.trim_matches(['[', ']'])) && port.parse::<u16>().is_ok() =>
        {
            Ok(text.to_owned())
        }
        _ => Err(format!("--{name} {text} is not HOST or HOST:PORT")),
    }
}

fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || (!text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')))
}

/// The host alone of `HOST[:PORT]`: other ports have their own numbers.
fn host_of(text: &Option<String>) -> Option<String> {
    let text = text.as_deref()?;
    if text.parse::<IpAddr>().is_ok() {
        return Some(text.to_owned());
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    Some(host.trim_matches(['[', ']']).to_owned())
}

/// A number of bytes, written `1048576`, `64kb`, `512mb` or `4gb` (powers of 1024).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = String;
    fn try_from(text: SizeText) -> Result<Self, String> {
        match text {
            SizeText::Number(bytes) => Ok(Self(bytes)),
            SizeText::Text(text) => text.parse(),
        }
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &lower[digits.len()..] {
            "" | "b" => 0,
            "k" | "kb" => 10,
            "m" | "mb" => 20,
            "g" | "gb" => 30,
            "t" | "tb" => 40,
            _ => return Err(format!("{text} is not a size such as 512mb or 4gb")),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| format!("{text} is not a size such as 512mb or 4gb"))
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
        #[serde(try_from = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(format!("{text} is not one of: {}", [$($word),*].join(", "))),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)*
                })
            }
        }
    };
}

words!(
    /// Where the log is synced.
    SyncMode {
        /// Decided batch by batch.
        Auto = "auto",
        /// Always on the helper thread.
        Helper = "helper",
        /// Always on the lane's own thread.
        Inline = "inline",
    }
);
words!(
    /// How important a log line is.
    LogLevel {
        /// Something is broken.
        Error = "error",
        /// An operator should look.
        Warn = "warn",
        /// Part of normal work.
        Info = "info",
        /// For developers.
        Debug = "debug",
    }
);
words!(
    /// How log lines look.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> NodeOptions {
        toml::from_str(text).expect("options")
    }

    #[test]
    fn everything_follows_from_one_address() {
        let settings = options("listen = \"127.0.0.1:7003\"")
            .settle()
            .expect("settings");
        assert_eq!(settings.replica_listen.port(), 7053);
        assert_eq!(settings.peer_listen.port(), 7103);
        assert_eq!(settings.http.port(), 7203);
        assert_eq!(settings.advertised.peer, "127.0.0.1:7103");
        assert!(!settings.beyond_loopback());
    }

    #[test]
    fn a_flag_beats_the_file() {
        let flags = options("max-clients = 5");
        let merged = flags.over(options("max-clients = 9\nmax-memory = \"2gb\""));
        assert_eq!(merged.max_clients, Some(5));
        assert_eq!(merged.max_memory, Some(Size(2 << 30)));
    }

    #[test]
    fn a_misspelt_name_is_an_error() {
        assert!(toml::from_str::<NodeOptions>("max-client = 5").is_err());
    }

    #[test]
    fn beyond_loopback_a_password_is_needed() {
        let refused = options("listen = \"10.0.0.1:7001\"")
            .settle()
            .expect_err("refused");
        assert!(refused.contains("password"), "{refused}");
        assert!(
            options("listen = \"10.0.0.1:7001\"\npassword = \"x\"")
                .settle()
                .is_ok()
        );
    }

    #[test]
    fn listening_everywhere_needs_an_address_to_announce() {
        let text = "listen = \"0.0.0.0:7001\"\npassword = \"x\"";
        assert!(
            options(text)
                .settle()
                .expect_err("refused")
                .contains("--advertise")
        );
        let text = format!("{text}\nadvertise = \"db1.example:17001\"");
        let advertised = options(&text).settle().expect("settings").advertised;
        assert_eq!(advertised.client, "db1.example:17001");
        assert_eq!(advertised.peer, "db1.example:7101");
        let bad = "advertise = \"db 1:x\"";
        assert!(options(bad).settle().is_err());
    }

    #[test]
    fn one_port_twice_is_refused() {
        let text = "listen = \"127.0.0.1:7001\"\nhttp = \"127.0.0.1:7001\"";
        assert!(
            options(text)
                .settle()
                .expect_err("refused")
                .contains("twice")
        );
    }

    #[test]
    fn sizes() {
        assert_eq!("64kb".parse(), Ok(Size(65536)));
        assert_eq!("3".parse(), Ok(Size(3)));
        for bad in ["", "mb", "1.5gb", "-1", "9999999999tb", "5 parsecs"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}

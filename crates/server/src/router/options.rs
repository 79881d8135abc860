//! What a router is given: flags, or the environment.

use std::net::SocketAddr;

use clap::Args;

use crate::config::{LogFormat, LogLevel};

/// Options of `kvorum router`.
#[derive(Args, Clone, Debug)]
pub struct RouterOptions {
    /// Address for clients
    #[arg(
        long,
        env = "KVORUM_ROUTER_LISTEN",
        value_name = "IP:PORT",
        default_value = "127.0.0.1:7379"
    )]
    pub listen: SocketAddr,

    /// Nodes of the cluster, by their addresses for clients. One is enough, and more are better: the others
    /// are found by asking these
    #[arg(
        long,
        env = "KVORUM_ROUTER_CLUSTER",
        value_name = "HOST:PORT[,HOST:PORT]",
        value_delimiter = ',',
        required = true
    )]
    pub cluster: Vec<String>,

    /// Address for HTTP: health and metrics [default: --listen with port + 1]
    #[arg(long, env = "KVORUM_ROUTER_HTTP", value_name = "IP:PORT")]
    pub http: Option<SocketAddr>,

    /// Password of the nodes, which clients must give as well; needed to listen beyond loopback (prefer the
    /// environment: other users of this machine can read flags)
    #[arg(
        long,
        env = "KVORUM_PASSWORD",
        value_name = "TEXT",
        hide_env_values = true
    )]
    pub password: Option<String>,

    /// How long a request may take, in milliseconds, before it is refused or its outcome is called unknown
    #[arg(
        long,
        env = "KVORUM_ROUTER_DEADLINE_MS",
        value_name = "MS",
        default_value_t = 5000
    )]
    pub deadline_ms: u64,

    /// Most client connections at a time
    #[arg(
        long,
        env = "KVORUM_MAX_CLIENTS",
        value_name = "N",
        default_value_t = 10_000
    )]
    pub max_clients: u32,

    /// Least important log lines to write: error, warn, info, debug [default: info]
    #[arg(long, env = "KVORUM_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,

    /// How log lines look: text or json [default: text]
    #[arg(long, env = "KVORUM_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Stop, as on SIGTERM, when standard input ends: for a parent that must not leave processes behind
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// The settings of a router, complete and checked.
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// For clients.
    pub listen: SocketAddr,
    /// For HTTP.
    pub http: SocketAddr,
    /// Where to look for the cluster: `host:port` each.
    pub cluster: Vec<String>,
    /// What clients must give and nodes are given, if anything.
    pub password: Option<String>,
    /// How long a request may take, in milliseconds.
    pub deadline_ms: u64,
    /// Most client connections at a time; at least 1.
    pub max_clients: u32,
    /// Least important log lines to write.
    pub log_level: LogLevel,
    /// How they look.
    pub log_format: LogFormat,
    /// Whether the end of standard input stops the router.
    pub stop_with_stdin: bool,
}

impl RouterOptions {
    /// Checks everything and fills in what was not said.
    ///
    /// # Errors
    /// With a sentence for the operator, if the settings contradict each other.
    pub fn settle(self) -> Result<RouterSettings, String> {
        let beside = || {
            let port = self.listen.port().checked_add(1).filter(|port| *port > 1);
            port.map(|port| SocketAddr::new(self.listen.ip(), port))
        };
        let http = self.http.or_else(beside).ok_or_else(|| {
            format!(
                "--http must be given: there is no port behind {}",
                self.listen
            )
        })?;
        if http == self.listen {
            return Err(format!(
                "{http} is used twice: clients and HTTP have their own ports"
            ));
        }
        let password = self.password.filter(|password| !password.is_empty());
        if password.is_none() && !self.listen.ip().is_loopback() {
            return Err(format!(
                "refusing to listen on {} (--listen) without authentication: anyone who reaches it could \
                 read and change everything. Set the password of the nodes (KVORUM_PASSWORD), or listen \
                 on 127.0.0.1",
                self.listen
            ));
        }
        if let Some(wrong) = self.cluster.iter().find(|node| !is_address(node)) {
            return Err(format!(
                "--cluster {wrong}: a node is HOST:PORT, such as 127.0.0.1:7001"
            ));
        }
        if !(100..=600_000).contains(&self.deadline_ms) {
            return Err(format!(
                "--deadline-ms {} is out of range: 100 to 600000",
                self.deadline_ms
            ));
        }
        Ok(RouterSettings {
            listen: self.listen,
            http,
            cluster: self.cluster,
            password,
            deadline_ms: self.deadline_ms,
            max_clients: self.max_clients.max(1),
            log_level: self.log_level.unwrap_or(LogLevel::Info),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
            stop_with_stdin: self.stop_with_stdin,
        })
    }
}

fn is_address(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    text.rsplit_once(':')
        .is_some_and(|(host, number)| !host.is_empty() && port(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(listen: &str, cluster: &str) -> RouterOptions {
        RouterOptions {
            listen: listen.parse().expect("an address"),
            cluster: cluster.split(',').map(str::to_owned).collect(),
            http: None,
            password: None,
            deadline_ms: 5000,
            max_clients: 1,
            log_level: None,
            log_format: None,
            stop_with_stdin: false,
        }
    }

    #[test]
    fn http_is_on_the_next_port() {
        let settings = options("127.0.0.1:7379", "a:7001,b:7002").settle();
        let settings = settings.expect("settings");
        assert_eq!(settings.http.port(), 7380);
        assert_eq!(settings.cluster, ["a:7001", "b:7002"]);
        let refused = options("127.0.0.1:65535", "a:7001").settle();
        assert!(refused.expect_err("no port").contains("--http"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = options("10.0.0.1:7379", "a:7001").settle();
        assert!(
            refused
                .expect_err("open to all")
                .contains("KVORUM_PASSWORD")
        );
        for wrong in ["a", "a:", ":7001", "a:x", "a:0"] {
            let refused = options("127.0.0.1:7379", wrong).settle();
            assert!(refused.expect_err(wrong).contains("HOST:PORT"));
        }
    }
}

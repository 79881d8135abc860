//! Commands that the router answers by itself: as a Redis that stands alone.

use kvorum_clients::{Profile, command, handshake};
use kvorum_kv::glob::matches;
use kvorum_kv::{NodeCommand, printed};
use kvorum_resp::number::parse_integer;
use kvorum_resp::{Args, Outcome, Replies};

use crate::clients::Client;
use crate::info;
use crate::router::{Config, Router};

const SYNTAX: &str = "ERR syntax error";
const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
/// What a Redis that stands alone says to everything about clusters.
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";
const NO_WAIT: &str = "ERR WAIT is not known to a router: what was acknowledged is on the disks of a \
     majority already";

impl Router {
    /// Runs such a command.
    pub(crate) fn run_local(
        &mut self,
        client: &mut Client,
        seq: u32,
        command: NodeCommand,
        args: Args<'_>,
    ) {
        use NodeCommand as Is;
        match command {
            Is::Hello => self.hello(client, seq, args),
            Is::Auth => {
                let result = handshake::auth(self.config.password.as_deref(), args);
                if result.is_ok() {
                    client.connection.set_authenticated(true);
                }
                self.count_errors(client.connection.reply(seq, |replies| match result {
                    Ok(()) => replies.ok(),
                    Err(text) => replies.error(text),
                }));
            }
            Is::Quit => {
                client.connection.close_after(seq);
                client.connection.reply(seq, |replies| replies.ok());
            }
            Is::Reset => {
                client.watches.forget();
                client.is_readonly = false;
                handshake::reset(client.parts(), seq, self.config.password.as_deref());
            }
            Is::Readonly | Is::Readwrite => {
                client.is_readonly = command == Is::Readonly;
                client.connection.reply(seq, |replies| replies.ok());
            }
            Is::ClientReply => self.client_reply(client, seq, args),
            Is::ClientKill => self.client_kill(client, seq, args),
            Is::ClientSetname | Is::ClientSetinfo => {
                let (connection, profile) = client.parts();
                self.count_errors(connection.reply(seq, |replies| match command {
                    Is::ClientSetname => command::setname(profile, args, replies),
                    _ => command::setinfo(profile, args, replies),
                }));
            }
            Is::Info => {
                let wanted: Vec<String> = (args.iter().skip(1))
                    .map(|section| String::from_utf8_lossy(section).to_ascii_lowercase())
                    .collect();
                let text = info::info(&self.status(), &wanted);
                client
                    .connection
                    .reply(seq, |replies| replies.verbatim("txt", &text));
            }
            _ => {
                let profile = &client.profile;
                client
                    .connection
                    .reply(seq, |replies| self.answer(profile, command, args, replies));
            }
        }
    }

    /// Commands that change nothing.
    pub(crate) fn answer(
        &self,
        profile: &Profile,
        command: NodeCommand,
        args: Args<'_>,
        replies: &mut Replies<'_>,
    ) {
        use NodeCommand as Is;
        match command {
            Is::Ping => match args.len() {
                1 => replies.simple("PONG"),
                2 => replies.bulk(args.get(1)),
                _ => replies.error("ERR wrong number of arguments for 'ping' command"),
            },
            Is::Select => select(args, replies),
            Is::ClientId => replies.integer(profile.serial as i64),
            Is::ClientGetname => command::getname(profile, replies),
            Is::ClientInfo => {
                replies.verbatim("txt", &format!("{}\n", profile.line(self.now_tick)));
            }
            Is::ClientList => {
                let others = self.clients.iter().map(|client| &client.profile);
                command::list(others.chain([profile]), self.now_tick, args, replies);
            }
            Is::ClientNoEvict | Is::ClientNoTouch => command::on_or_off(args, replies),
            Is::ConfigGet => config_get(&self.config, args, replies),
            Is::ConfigSet => config_set(&self.config, args, replies),
            // Counters only grow, so that rates can be computed from them.
            Is::ConfigResetstat | Is::Unwatch => replies.ok(),
            Is::Time => {
                let now = self.wall.get();
                replies.array(2);
                replies.bulk((now / 1000).to_string().as_bytes());
                replies.bulk((now % 1000 * 1000).to_string().as_bytes());
            }
            Is::Role => {
                replies.array(3);
                replies.bulk(b"master");
                replies.integer(0);
                replies.array(0);
            }
            Is::Wait => replies.error(NO_WAIT),
            Is::Link => replies.error("ERR a router does not take the links of routers"),
            // The rest is about clusters.
            _ => replies.error(NO_CLUSTER),
        }
    }

    fn count_errors(&mut self, outcome: Outcome) {
        self.clients.errors += u64::from(outcome == Outcome::Error);
    }

    fn hello(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let password = self.config.password.as_deref();
        let result = handshake::hello(
            client.parts(),
            seq,
            password,
            ("standalone", "master"),
            args,
        );
        if let Err(text) = result {
            self.refuse_request(client, seq, &text);
        }
    }

    /// What CLIENT REPLY does takes effect with its own reply.
    fn client_reply(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let Some(mode) = command::reply_mode(args) else {
            return self.refuse_request(client, seq, SYNTAX.as_bytes());
        };
        client.connection.set_reply_mode(seq, mode);
        client.connection.reply(seq, |replies| replies.ok());
    }

    fn client_kill(&mut self, client: &mut Client, seq: u32, args: Args<'_>) {
        let mut killed = Vec::new();
        let (connection, profile) = client.parts();
        let others = self.clients.iter().map(|client| &client.profile);
        let all = others.chain([&*profile]);
        let outcome = connection.reply(seq, |replies| {
            killed = command::kill(profile.conn, all, args, replies);
        });
        self.count_errors(outcome);
        for conn in killed {
            if conn == client.profile.conn {
                client.connection.close_when_answered();
            } else if let Some(other) = self.clients.get_mut(conn) {
                other.connection.close_when_answered();
                self.clients.touch(conn);
            }
        }
    }
}

/// SELECT: there is one database.
fn select(args: Args<'_>, replies: &mut Replies<'_>) {
    match parse_integer(args.get(1)) {
        Some(0) => replies.ok(),
        Some(_) => replies.error("ERR DB index is out of range"),
        None => replies.error(NOT_AN_INTEGER),
    }
}

/// The settings that Redis tools ask for, with what is true here.
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let fixed = [
        ("appendfsync", "always"),
        ("appendonly", "yes"),
        ("cluster-enabled", "no"),
        ("databases", "1"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("proto-max-bulk-len", "33554432"),
        ("save", ""),
        ("timeout", "0"),
    ];
    let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
    let port = ("port", config.port.to_string());
    fixed.into_iter().chain([port]).collect()
}

fn config_get(config: &Config, args: Args<'_>, replies: &mut Replies<'_>) {
    let mut found = settings(config);
    found.retain(|(name, _)| {
        let mut patterns = args.iter().skip(2);
        patterns.any(|pattern| matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    });
    replies.map(found.len());
    for (name, value) in found {
        replies.bulk(name.as_bytes());
        replies.bulk(value.as_bytes());
    }
}

/// CONFIG SET: what is known is not set here, anything else is not known.
fn config_set(config: &Config, args: Args<'_>, replies: &mut Replies<'_>) {
    if !args.len().is_multiple_of(2) {
        return replies.error(SYNTAX);
    }
    let known = settings(config);
    let is_known = |name: &&[u8]| {
        let mut names = known.iter();
        names.any(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
    };
    let mut names = args.iter().skip(2).step_by(2);
    let text = match names.find(|name| !is_known(name)) {
        Some(name) => [
            &b"ERR Unknown option or number of arguments for CONFIG SET - '"[..],
            printed(name),
            b"'",
        ],
        None => [
            &b"ERR CONFIG SET failed - '"[..],
            printed(args.get(2)),
            b"' is not set while a router runs",
        ],
    };
    replies.error_bytes(&text.concat());
}

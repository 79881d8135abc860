//! Runs `testscripts/`: bytes in and out of one connection.
//!
//! - `recv "<bytes>"`: what one read delivers; shows the requests that are whole.
//! - `reply <seq> ok | bulk <text> | error <text> | integer <n> | null | boolean | map <k> <v>`
//! - `push <text>`, `hello <seq> <version>`, `replies <seq> on|off|skip`, `close <seq>`, `quit`
//! - `auth`, and `limits args=<n> bulk=<n> request=<n>`
//! - `hold "<bytes>"` and `resume`
//!
//! Whatever a command puts into the output is shown and taken as written.

use std::fmt::Write as _;
use std::path::Path;

use kvorum_base::script::{Command, Runner, run_folder};
use kvorum_resp::{Connection, InputLimits, ReplyMode, Scratch, Version};

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    run_folder(&folder, |_| Client {
        connection: Connection::new(),
        limits: InputLimits::default(),
        scratch: Scratch::new(),
        was_finished: false,
    });
}

struct Client {
    connection: Connection,
    limits: InputLimits,
    scratch: Scratch,
    was_finished: bool,
}

impl Client {
    fn receive(&mut self, bytes: &[u8], out: &mut String) {
        let mut data = bytes;
        while let Some(request) =
            self.connection
                .next_request_or_reply(&self.limits, &mut data, &mut self.scratch)
        {
            let _ = write!(out, "request {}:", request.seq);
            for argument in request.args.iter() {
                let _ = write!(out, " \"{}\"", argument.escape_ascii());
            }
            out.push('\n');
        }
    }

    fn reply(&mut self, command: &Command) -> Result<(), String> {
        let seq = command.number(0)? as u32;
        let kind = command.arg(1)?;
        let text = command.arg(2).unwrap_or_default();
        let value = command.arg(3).unwrap_or_default();
        if !["ok", "bulk", "error", "integer", "null", "boolean", "map"].contains(&kind) {
            return Err(format!("no such reply: {kind}"));
        }
        self.connection.reply(seq, |replies| match kind {
            "ok" => replies.ok(),
            "bulk" => replies.bulk(text.as_bytes()),
            "error" => replies.error(text),
            "integer" => replies.integer(text.parse().unwrap_or_default()),
            "null" => replies.null(),
            "boolean" => replies.boolean(true),
            _ => {
                replies.map(1);
                replies.bulk(text.as_bytes());
                replies.bulk(value.as_bytes());
            }
        });
        Ok(())
    }
}

impl Runner for Client {
    fn run(&mut self, command: &Command) -> Result<String, String> {
        let mut out = String::new();
        let connection = &mut self.connection;
        match command.name.as_str() {
            "recv" => self.receive(&bytes(command.arg(0)?), &mut out),
            "hold" => connection.hold(&mut bytes(command.arg(0)?).as_slice()),
            "resume" => {
                let held = connection.take_held();
                self.receive(&held, &mut out);
            }
            "reply" => self.reply(command)?,
            "push" => connection.push(|replies| {
                replies.push(1);
                replies.bulk(command.args[0].as_bytes());
            }),
            "hello" => {
                let version = match command.number(1)? {
                    3 => Version::Resp3,
                    _ => Version::Resp2,
                };
                connection.set_version(command.number(0)? as u32, version);
            }
            "replies" => {
                let mode = match command.arg(1)? {
                    "on" => ReplyMode::On,
                    "off" => ReplyMode::Off,
                    _ => ReplyMode::Skip,
                };
                connection.set_reply_mode(command.number(0)? as u32, mode);
            }
            "close" => connection.close_after(command.number(0)? as u32),
            "quit" => connection.close_when_answered(),
            "auth" => connection.set_authenticated(true),
            "limits" => {
                let old = self.limits;
                self.limits = InputLimits {
                    args_max: command.number_or("args", old.args_max.into())? as u32,
                    bulk_bytes_max: command.number_or("bulk", old.bulk_bytes_max.into())? as u32,
                    request_bytes_max: command.number_or("request", old.request_bytes_max.into())?
                        as u32,
                };
            }
            other => return Err(format!("no such command: {other}")),
        }
        self.connection.check();
        let output = self.connection.output();
        if !output.is_empty() {
            let _ = writeln!(out, "out \"{}\"", output.to_vec().escape_ascii());
            output.advance(output.len());
        }
        if self.connection.is_finished() && !self.was_finished {
            self.was_finished = true;
            out.push_str("finished\n");
        }
        Ok(out)
    }
}

/// A script's word as bytes: `\xff` in it stands for that byte.
fn bytes(word: &str) -> Vec<u8> {
    word.chars()
        .map(|c| u8::try_from(u32::from(c)).expect("a byte"))
        .collect()
}

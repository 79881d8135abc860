//! Transactions, and what must be true of them.
//!
//! - An append that is guarded by a WATCH is possible only where the key still holds what was read behind the
//!   WATCH: so it stands in the key's history, and no update is lost between the two.
//! - Two keys of one slot are changed against each other. Whoever reads both, in one command or in a
//!   transaction, finds that their sum is zero.
//! - A key that nobody else knows is watched, and then changed or left alone: EXEC must know which, also
//!   where the key is as it was before, and where its slot has moved meanwhile.

use std::rc::Rc;

use super::client::{Answer, Request};
use super::coverage::Mark;
use super::reply::Reply;
use super::workload::{Worker, request};
use crate::checkers::strings::{Input, KeyInput, Output, Value};
use crate::history::Outcome;
use crate::world::ms;

/// What EXEC did.
enum Exec {
    /// The replies of its commands.
    Run(Vec<Reply>),
    /// A watched key had changed.
    NotRun,
    /// It certainly was not carried out, for another reason.
    Refused,
    Unknown,
}

fn done(answer: &Answer) -> Option<&Reply> {
    match answer {
        Answer::Done(reply) => Some(reply),
        Answer::Refused | Answer::Unknown => None,
    }
}

fn integer(reply: &Reply) -> Option<i64> {
    match reply {
        Reply::Int(number) => Some(*number),
        Reply::Bulk(None) => Some(0),
        Reply::Bulk(Some(text)) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

impl Worker {
    /// One of them.
    pub(super) async fn transaction(&mut self) {
        match self.client.below(10) {
            0..4 => self.guarded_append().await,
            4..7 => self.transfer().await,
            _ => self.watched_change().await,
        }
    }

    /// Sends a transaction of these commands, and says what became of it.
    async fn exec(&self, commands: &[Request]) -> Exec {
        let cluster = &self.client.cluster;
        let mut requests = vec![request(&["MULTI"])];
        requests.extend_from_slice(commands);
        requests.push(request(&["EXEC"]));
        let answer = self.client.ask(&requests).await.pop();
        cluster.trace(|| {
            let names: Vec<_> = (commands.iter())
                .map(|words| String::from_utf8_lossy(&words.join(&b' ')).into_owned())
                .collect();
            format!(
                "client {}: EXEC {names:?} -> {answer:?}",
                self.client.number
            )
        });
        match answer {
            Some(Answer::Done(Reply::Array(replies))) if replies.len() == commands.len() => {
                cluster.hit(Mark::Transactions);
                Exec::Run(replies)
            }
            Some(Answer::Done(Reply::Array(replies))) if replies.is_empty() => {
                cluster.hit(Mark::WatchesBroken);
                Exec::NotRun
            }
            // One of its commands was refused while it was queued.
            Some(Answer::Done(Reply::Error(text))) if text.starts_with("EXECABORT ") => {
                Exec::Refused
            }
            Some(Answer::Done(other)) => {
                cluster.fail("replies", format!("EXEC -> {other:?}"));
                Exec::Unknown
            }
            Some(Answer::Refused) => Exec::Refused,
            Some(Answer::Unknown) | None => Exec::Unknown,
        }
    }

    /// Time passes, in which others change what is watched, and slots move.
    async fn think(&self, most_ms: u64) {
        let pause = ms(self.client.below(most_ms));
        self.client.cluster.world.sleep(pause).await;
    }

    async fn guarded_append(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let number = self.client.number;
        let name = self.key("k", 5);
        let twin = format!("{{{name}}}twin");
        let key: Value = name.as_bytes().into();
        let read = KeyInput {
            key: Rc::clone(&key),
            input: Input::Get,
        };
        let id = (cluster.history.borrow_mut()).called(number, read, cluster.world.now());
        let watch = [
            request(&["UNWATCH"]),
            request(&["WATCH", &name]),
            request(&["GET", &name]),
        ];
        let answers = self.client.ask(&watch).await;
        let outcome = match &answers[2] {
            Answer::Done(Reply::Bulk(value)) => Outcome::Done(Output::Value(value.clone())),
            Answer::Refused => Outcome::Refused,
            Answer::Unknown => Outcome::Unknown,
            Answer::Done(other) => {
                return cluster.fail("replies", format!("GET {name} -> {other:?}"));
            }
        };
        (cluster.history.borrow_mut()).returned(id, outcome, cluster.world.now());
        let [
            _,
            Answer::Done(Reply::Simple(_)),
            Answer::Done(Reply::Bulk(before)),
        ] = &answers[..]
        else {
            return;
        };
        self.think(60).await;
        if !self.client.is_connected() {
            return;
        }
        let piece = format!("{};", self.unique());
        let more: Value = piece.as_bytes().into();
        let inputs = [
            (key, Input::AppendTo(before.clone(), Rc::clone(&more))),
            (twin.as_bytes().into(), Input::Append(more)),
        ];
        let begun = cluster.world.now();
        let ids = inputs.map(|(key, input)| {
            let mut history = cluster.history.borrow_mut();
            history.called(number, KeyInput { key, input }, begun)
        });
        let append = |key: &str| request(&["APPEND", key, &piece]);
        let exec = self.exec(&[append(&name), append(&twin)]).await;
        for (part, id) in ids.into_iter().enumerate() {
            let outcome = match &exec {
                Exec::Run(replies) => match &replies[part] {
                    Reply::Int(len) => Outcome::Done(Output::Int(*len)),
                    other => return cluster.fail("replies", format!("APPEND -> {other:?}")),
                },
                Exec::NotRun | Exec::Refused => Outcome::Refused,
                Exec::Unknown => Outcome::Unknown,
            };
            (cluster.history.borrow_mut()).returned(id, outcome, cluster.world.now());
        }
    }

    async fn transfer(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let tag = self.key("x", 2);
        let (one, other) = (format!("{{{tag}}}one"), format!("{{{tag}}}other"));
        let by = (1 + self.client.below(99)).to_string();
        let get = |key: &str| request(&["GET", key]);
        let both = match self.client.below(3) {
            0 => {
                let read = [request(&["MGET", &one, &other])];
                let answer = self.client.ask(&read).await.pop();
                match answer.as_ref().and_then(done) {
                    Some(Reply::Array(values)) => values.clone(),
                    _ => return,
                }
            }
            1 => match self.exec(&[get(&one), get(&other)]).await {
                Exec::Run(values) => values,
                _ => return,
            },
            _ => {
                let commands = [
                    request(&["DECRBY", &one, &by]),
                    request(&["INCRBY", &other, &by]),
                ];
                match self.exec(&commands).await {
                    Exec::Run(values) => values,
                    _ => return,
                }
            }
        };
        let sum = both.iter().map(integer).sum::<Option<i64>>();
        if sum != Some(0) {
            let text = format!("{one} and {other} are {both:?}: a transaction was done by half");
            cluster.fail("transactions", text);
        }
    }

    async fn watched_change(&mut self) {
        let cluster = Rc::clone(&self.client.cluster);
        let name = format!("w{}", self.unique());
        let change = |word: u64| match word {
            0 => request(&["SET", &name, "1"]),
            _ => request(&["DEL", &name]),
        };
        let mut requests = vec![request(&["UNWATCH"])];
        if self.client.chance(500) {
            requests.push(change(0));
        }
        requests.push(request(&["WATCH", &name]));
        let first = requests.len();
        for _ in 0..self.client.below(4) {
            requests.push(change(self.client.below(2)));
        }
        let answers = self.client.ask(&requests).await;
        let replies: Option<Vec<&Reply>> = answers.iter().map(done).collect();
        let Some(replies) = replies else {
            return;
        };
        let is_change = |reply: &&Reply| matches!(reply, Reply::Simple(_) | Reply::Int(1));
        let is_changed = replies[first..].iter().any(is_change);
        self.think(3_000).await;
        if !self.client.is_connected() {
            return;
        }
        let is_run = match self.exec(&[request(&["GET", &name])]).await {
            Exec::Run(_) => true,
            Exec::NotRun => false,
            Exec::Refused | Exec::Unknown => return,
        };
        if is_run == is_changed {
            let text = format!("{name}: changed is {is_changed}, run is {is_run}: {requests:?}");
            cluster.fail("transactions", text);
        }
    }
}

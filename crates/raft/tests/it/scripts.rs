//! Runs the scenario scripts.
//!
//! ```text
//! cluster V            V voters with small timeouts (10..=20 ticks, heartbeats every 2)
//!   chunk=C in-flight=A bytes-in-flight=F chunks=K bytes=B uncommitted=U
//! tick N [count=T]     time passes at N
//! deliver [from= to= kind= skip= count=]     what is on the way now, not what that causes
//! run [ticks=T] [cut=N]           delivers all until nothing is on the way, T ticks long
//! drop/copy [from= to= ...]        messages on the way are lost, or doubled
//! queue                what is on the way
//! sync N [count=C] | sync N off | sync N on      its writes reach the disk, by hand or at once
//! campaign N | elect N            stands for election; the latter delivers all and shows the winner
//! propose N TEXT | read N | transfer N [to=M] | members N voters=.. learners=.. [expected=I]
//! add N                a new replica that knows nobody
//! recover N [term=T] [floor=F]      decides alone from here on
//! crash N [keep=C] | restart N | reset-link N from=M
//! compact N [upto=I] | lose-state N | send-snapshot N to=M
//! spoil-piece N        the next snapshot piece that comes there cannot be kept
//! votes N off|on       whether it gives votes
//! log N | status N     what it holds
//! ```
//! The word `quiet` at the end of any command leaves messages and writes out of its trace.

use std::path::Path;

use kvorum_base::script::{Command, Runner, run_folder};
use kvorum_base::{Index, NodeId, Planted, Prng, ReplicaId, Term};
use kvorum_raft::{FlowName, Membership, Target};

use crate::cluster::{Cluster, Envelope, small_config};
use crate::trace;

struct Scripted {
    cluster: Cluster,
}

impl Scripted {
    fn new() -> Self {
        Self {
            cluster: Cluster::new(0, small_config(Planted::default()), Prng::new(1)),
        }
    }

    fn make_cluster(&mut self, command: &Command) -> Result<(), String> {
        let mut config = small_config(Planted::default());
        config.appends_in_flight_max = command.number_or("in-flight", 64)? as usize;
        config.bytes_in_flight_max = command.number_or("bytes-in-flight", 1 << 20)? as usize;
        config.chunks_in_flight_max = command.number_or("chunks", 2)?;
        config.append_bytes_max = command.number_or("bytes", 1 << 20)? as usize;
        config.uncommitted_bytes_max = command.number_or("uncommitted", 1 << 20)? as usize;
        self.cluster = Cluster::new(command.number(0)?, config, Prng::new(1));
        self.cluster.happened = Some(Vec::new());
        for host in self.cluster.hosts.values_mut() {
            host.chunk_commands = command.number_or("chunk", 2)? as usize;
        }
        Ok(())
    }

    /// Takes the messages on the way that the command's filters name.
    fn take(&mut self, command: &Command) -> Result<Vec<Envelope>, String> {
        let number = |name: &str| match command.get(name) {
            None => Ok(None),
            Some(_) => command.number_or(name, 0).map(|id| Some(ReplicaId(id))),
        };
        let (from, to) = (number("from")?, number("to")?);
        let count = command.number_or("count", u64::MAX)?;
        let mut skip = command.number_or("skip", 0)?;
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for envelope in std::mem::take(&mut self.cluster.messages) {
            let fits = from.is_none_or(|id| id == envelope.from)
                && to.is_none_or(|id| id == envelope.to)
                && command
                    .get("kind")
                    .is_none_or(|kind| kind == trace::kind(&envelope.message.body))
                && (taken.len() as u64) < count;
            if fits && skip > 0 {
                skip -= 1;
                left.push(envelope);
            } else if fits {
                taken.push(envelope);
            } else {
                left.push(envelope);
            }
        }
        self.cluster.messages = left;
        if taken.is_empty() {
            return Err("no such message is on the way".to_owned());
        }
        Ok(taken)
    }

    fn set(&mut self, id: ReplicaId, command: &Command) -> Result<bool, String> {
        if !self.cluster.hosts.contains_key(&id) {
            return Err(format!("there is no replica {id}"));
        }
        match command.args.get(1).map(String::as_str) {
            Some("off") => Ok(false),
            Some("on") => Ok(true),
            other => Err(format!("on or off, not {other:?}")),
        }
    }

    fn members(&mut self, id: ReplicaId, command: &Command) -> Result<(), String> {
        let present = self.cluster.host(id).raft.membership();
        let expected = Index(command.number_or("expected", present.id.get())?);
        let places = |name: &str| {
            let list = command.get(name).unwrap_or("");
            let ids = list.split(',').filter(|word| !word.is_empty());
            ids.map(|word| {
                let id: u64 = word.parse().map_err(|_| format!("{word} is not an id"))?;
                Ok((ReplicaId(id), NodeId(id)))
            })
            .collect::<Result<_, String>>()
        };
        let target = Target {
            voters: places("voters")?,
            learners: places("learners")?,
        };
        self.refused(id, |host| {
            host.raft
                .propose_membership(expected, &target)
                .map(drop)
                .map_err(|e| e.to_string())
        })
    }

    /// Does something that may be refused.
    fn refused(
        &mut self,
        id: ReplicaId,
        act: impl FnOnce(&mut crate::host::Host) -> Result<(), String>,
    ) -> Result<(), String> {
        let result = self.cluster.with(id, act);
        result.unwrap_or_else(|| Err(format!("replica {id} is not up")))
    }

    fn log(&self, id: ReplicaId) -> String {
        let raft = &self.cluster.host(id).raft;
        let entries: Vec<_> = raft
            .entries(Index(1)..=raft.last_index())
            .cloned()
            .collect();
        let base = raft.base_index();
        format!(
            "{id}: base {base} [{}] commit {}",
            trace::listed(&entries),
            raft.commit()
        )
    }

    fn status(&self, id: ReplicaId) -> String {
        let host = self.cluster.host(id);
        let status = host.raft.status();
        let mut text = format!(
            "{id}: {:?} t{} leader {} commit {} last {} synced {} members {}",
            status.role,
            status.term,
            status.leader.map_or("none".to_owned(), |id| id.to_string()),
            status.commit,
            status.last_index,
            status.persisted,
            trace::members(host.raft.membership()),
        );
        for peer in status.peers {
            let flow = match peer.flow {
                FlowName::Probe => "probe",
                FlowName::Replicate => "replicate",
                FlowName::Snapshot => "snapshot",
            };
            text += &format!(
                "\n  {}: {flow} matched {} next {} in flight {}",
                peer.id, peer.matched, peer.next, peer.in_flight
            );
            if peer.snapshot && peer.flow != FlowName::Snapshot {
                text += ", a snapshot beside";
            }
        }
        text
    }

    /// What the command printed by itself; what happened comes before it.
    fn act(&mut self, command: &Command) -> Result<String, String> {
        if command.name == "cluster" {
            self.make_cluster(command)?;
            return Ok(String::new());
        }
        if let Some(text) = self.act_on_messages(command)? {
            return Ok(text);
        }
        let id = ReplicaId(command.number(0)?);
        match command.name.as_str() {
            "tick" => (0..command.number_or("count", 1)?).for_each(|_| self.cluster.tick(id)),
            "sync" if command.args.len() > 1 => {
                let on = self.set(id, command)?;
                self.cluster.sync_by_hand.retain(|other| *other != id);
                if !on {
                    self.cluster.sync_by_hand.push(id);
                }
            }
            "sync" => self
                .cluster
                .sync(id, command.number_or("count", u64::MAX)? as usize),
            "campaign" => {
                self.cluster.with(id, |host| host.raft.campaign());
            }
            "elect" => {
                self.cluster.with(id, |host| host.raft.campaign());
                self.cluster.run(|_| true);
            }
            "propose" => {
                let data = bytes::Bytes::copy_from_slice(command.arg(1)?.as_bytes());
                self.refused(id, |host| {
                    host.raft.propose(data).map(drop).map_err(|e| e.to_string())
                })?;
            }
            "read" => {
                let number = self.cluster.read(id).ok_or("not the leader")?;
                return Ok(format!("{id}: round {number} began"));
            }
            "transfer" => {
                let to = command.number_or("to", 0)?;
                let to = (to > 0).then_some(ReplicaId(to));
                self.refused(id, |host| host.raft.transfer(to).map_err(|e| e.to_string()))?;
            }
            "members" => self.members(id, command)?,
            "recover" => {
                let term = self.cluster.host(id).raft.term();
                let term = Term(command.number_or("term", term.get())?);
                let floor = ReplicaId(command.number_or("floor", 0)?);
                self.refused(id, |host| {
                    let recovered = host.raft.recover(term, floor);
                    recovered.map(drop).map_err(|e| e.to_string())
                })?;
            }
            "add" => self.cluster.add(id, Membership::default()),
            "crash" => self
                .cluster
                .crash(id, command.number_or("keep", 0)? as usize),
            "restart" => self.cluster.restart(id),
            "reset-link" => {
                let other = ReplicaId(command.number_or("from", 0)?);
                self.cluster.with(id, |host| host.raft.link_reset(other));
            }
            "compact" => {
                let upto = Index(command.number_or("upto", u64::MAX)?);
                self.cluster.with(id, |host| host.compact(upto));
            }
            "lose-state" => {
                self.cluster.with(id, crate::host::Host::lose_state);
            }
            "spoil-piece" => {
                self.cluster.with(id, |host| host.staging_fails = true);
            }
            "send-snapshot" => {
                let to = ReplicaId(command.number_or("to", 0)?);
                self.cluster.with(id, |host| host.raft.send_snapshot(to));
            }
            "votes" => {
                let on = self.set(id, command)?;
                self.cluster.with(id, |host| host.raft.set_can_vote(on));
            }
            "log" => return Ok(self.log(id)),
            "status" => return Ok(self.status(id)),
            other => return Err(format!("no such command: {other}")),
        }
        Ok(String::new())
    }

    fn act_on_messages(&mut self, command: &Command) -> Result<Option<String>, String> {
        match command.name.as_str() {
            "deliver" => {
                for envelope in self.take(command)? {
                    self.cluster.deliver(envelope);
                }
            }
            "drop" => drop(self.take(command)?),
            "copy" => {
                let taken = self.take(command)?;
                self.cluster.messages.extend(taken.iter().cloned());
                self.cluster.messages.extend(taken);
            }
            "queue" => {
                let lines: Vec<String> =
                    self.cluster.messages.iter().map(trace::envelope).collect();
                return Ok(Some(lines.join("\n")));
            }
            "run" => {
                let cut = ReplicaId(command.number_or("cut", 0)?);
                let passes = |envelope: &Envelope| envelope.from != cut && envelope.to != cut;
                self.cluster
                    .run_ticks(command.number_or("ticks", 0)?, passes);
            }
            _ => return Ok(None),
        }
        Ok(Some(String::new()))
    }
}

impl Runner for Scripted {
    fn run(&mut self, command: &Command) -> Result<String, String> {
        let printed = self.act(command)?;
        let quiet = command.name == "elect" || command.args.iter().any(|arg| arg == "quiet");
        let happened = self.cluster.happened.as_mut().map(std::mem::take);
        let mut lines: Vec<String> = happened
            .unwrap_or_default()
            .iter()
            .filter_map(|happened| trace::line(happened, quiet))
            .filter(|line| command.name != "elect" || line.contains("leads"))
            .collect();
        if !printed.is_empty() {
            lines.push(printed);
        }
        let hosts = self.cluster.hosts.values();
        self.cluster.judge.compare_logs(hosts);
        Ok(lines.join("\n"))
    }
}

#[test]
fn scripts_give_their_traces() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    run_folder(&folder, |_| Scripted::new());
}

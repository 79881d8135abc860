//! Several replicas, and the messages between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_base::{Index, NodeId, Planted, Prng, ReplicaId};
use kvorum_raft::{Config, Effect, Membership, Message};

use crate::host::{Host, encode};
use crate::judge::Judge;

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) message: Message,
}

/// What happened, for traces.
pub(crate) enum Happened {
    Effect(ReplicaId, Effect),
    Commit(ReplicaId, Index),
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) hosts: BTreeMap<ReplicaId, Host>,
    pub(crate) messages: Vec<Envelope>,
    pub(crate) judge: Judge,
    pub(crate) config: Config,
    pub(crate) prng: Prng,
    /// Whether writes are durable at once.
    pub(crate) sync_at_once: bool,
    /// Replicas whose writes wait for `sync` all the same.
    pub(crate) sync_by_hand: Vec<ReplicaId>,
    /// Whether committed entries are applied at once.
    pub(crate) apply_at_once: bool,
    /// What happened, if somebody wants to know.
    pub(crate) happened: Option<Vec<Happened>>,
}

pub(crate) fn small_config(planted: Planted) -> Config {
    Config {
        election_ticks_min: 10,
        election_ticks_max: 20,
        heartbeat_ticks: 2,
        planted,
        ..Config::new(ReplicaId(0), encode)
    }
}

pub(crate) fn members(voters: impl IntoIterator<Item = u64>) -> Membership {
    Membership::initial(voters.into_iter().map(|id| (ReplicaId(id), NodeId(id))))
}

impl Cluster {
    pub(crate) fn new(voters: u64, config: Config, prng: Prng) -> Self {
        let mut cluster = Self {
            hosts: BTreeMap::new(),
            messages: Vec::new(),
            judge: Judge::default(),
            config,
            prng,
            sync_at_once: true,
            sync_by_hand: Vec::new(),
            apply_at_once: true,
            happened: None,
        };
        let first = Arc::new(members(1..=voters));
        cluster.judge.memberships.insert(Index::ZERO, first);
        for id in 1..=voters {
            cluster.add(ReplicaId(id), members(1..=voters));
        }
        cluster
    }

    /// A new replica that knows this membership.
    pub(crate) fn add(&mut self, id: ReplicaId, membership: Membership) {
        let prng = self.prng.fork();
        let config = self.config_of(id);
        self.hosts.insert(id, Host::new(config, membership, prng));
    }

    fn config_of(&self, id: ReplicaId) -> Config {
        Config {
            id,
            ..self.config.clone()
        }
    }

    pub(crate) fn host(&self, id: ReplicaId) -> &Host {
        &self.hosts[&id]
    }

    /// Does something to a replica that is up, and everything that follows at once.
    pub(crate) fn with<T>(&mut self, id: ReplicaId, act: impl FnOnce(&mut Host) -> T) -> Option<T> {
        let host = self.hosts.get_mut(&id).filter(|host| host.up)?;
        let result = act(host);
        self.settle(id);
        Some(result)
    }

    pub(crate) fn tick(&mut self, id: ReplicaId) {
        self.with(id, |host| host.raft.tick());
    }

    pub(crate) fn propose(&mut self, id: ReplicaId, data: &str) -> Option<Index> {
        let data = Bytes::copy_from_slice(data.as_bytes());
        self.with(id, |host| host.raft.propose(data))
            .and_then(Result::ok)
    }

    pub(crate) fn read(&mut self, id: ReplicaId) -> Option<u64> {
        let host = self.hosts.get_mut(&id).filter(|host| host.up)?;
        let number = host.raft.read().ok()?;
        self.judge.read_began(host, number);
        self.settle(id);
        Some(number)
    }

    pub(crate) fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, message } = envelope;
        self.with(to, |host| host.raft.step(from, message));
    }

    pub(crate) fn sync(&mut self, id: ReplicaId, count: usize) {
        self.with(id, |host| {
            let count = count.min(host.unsynced.len());
            if let Some((seq, ..)) = count.checked_sub(1).map(|last| host.unsynced[last].clone()) {
                host.sync(seq);
            }
        });
    }

    pub(crate) fn crash(&mut self, id: ReplicaId, keep: usize) {
        if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.up) {
            host.crash(keep);
            self.judge.reads_void(id, u64::MAX);
        }
    }

    pub(crate) fn restart(&mut self, id: ReplicaId) {
        let (config, prng) = (self.config_of(id), self.prng.fork());
        if let Some(host) = self.hosts.get_mut(&id).filter(|host| !host.up) {
            host.restart(config, prng);
            self.settle(id);
        }
    }

    /// Carries out effects until there are none.
    fn settle(&mut self, id: ReplicaId) {
        let host = self.hosts.get_mut(&id).expect("a replica");
        let mut effects = Vec::new();
        loop {
            host.raft.effects(&mut effects);
            if effects.is_empty() {
                break;
            }
            for effect in effects.drain(..) {
                if let Some(happened) = &mut self.happened {
                    happened.push(Happened::Effect(id, effect.clone()));
                }
                match host.handle(effect) {
                    Some(Effect::Send { to, message }) => self.messages.push(Envelope {
                        from: id,
                        to,
                        message,
                    }),
                    Some(Effect::ReadConfirmed { number, index }) => {
                        self.judge.read_confirmed(id, number, index);
                    }
                    Some(Effect::ReadsVoid) => self.judge.reads_void(id, u64::MAX),
                    _ => {}
                }
            }
            if self.sync_at_once
                && !self.sync_by_hand.contains(&id)
                && let Some((seq, ..)) = host.unsynced.back()
            {
                let seq = *seq;
                host.sync(seq);
            }
        }
        let before = host.judged;
        if self.apply_at_once {
            host.apply(usize::MAX);
        }
        self.judge.look(host);
        if let Some(happened) = &mut self.happened
            && host.judged > before
        {
            happened.push(Happened::Commit(id, host.judged));
        }
    }

    /// The leader of the highest term among the replicas that are up.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        self.hosts
            .values()
            .filter(|host| host.up && host.raft.is_leader())
            .max_by_key(|host| host.raft.term())
            .map(|host| host.id)
    }

    /// Delivers everything, also what that causes, until nothing is on the way. Messages for which
    /// `passes` is false are lost.
    pub(crate) fn run(&mut self, passes: impl Fn(&Envelope) -> bool) {
        while !self.messages.is_empty() {
            for envelope in std::mem::take(&mut self.messages) {
                if passes(&envelope) {
                    self.deliver(envelope);
                }
            }
        }
    }

    /// Lets time pass on a network that loses what `passes` says, delivering after each tick.
    pub(crate) fn run_ticks(&mut self, ticks: u64, passes: impl Fn(&Envelope) -> bool) {
        self.run(&passes);
        for _ in 0..ticks {
            for id in self.hosts.keys().copied().collect::<Vec<_>>() {
                self.tick(id);
            }
            self.run(&passes);
        }
    }
}

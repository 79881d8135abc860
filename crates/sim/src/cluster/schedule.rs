//! What goes wrong, and when.
//!
//! Misfortunes overlap: each is a task that strikes, waits, and makes good again. What cannot be made
//! good (a damaged log) strikes at most a minority. When the storm is over [`calm`] makes everything
//! good at once.

use std::rc::Rc;
use std::time::Duration;

use kvorum_base::{GroupId, Prng};
use kvorum_cluster::MANAGER;
use kvorum_node::Control;

use super::Cluster;
use super::coverage::Mark;
use super::host::{End, Host, Incoming};
use super::options::{Danger, GROUP, node_id};
use crate::disk::Conduct;
use crate::net::Weather;
use crate::world::{Time, ms};

/// One day, in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// Begins the storm; it goes on until [`calm`].
pub fn start(cluster: &Rc<Cluster>) {
    if cluster.options.dangers.is_empty() {
        return;
    }
    let storm = Storm {
        cluster: Rc::clone(cluster),
        prng: cluster.world.fork_prng(),
    };
    drop(cluster.world.spawn(storm.rage()));
}

/// Ends the storm: everything is whole again, and every node runs that can.
pub fn calm(cluster: &Rc<Cluster>) {
    cluster.is_calm.set(true);
    cluster.is_cut_at_election.set(false);
    cluster.lonely.set(None);
    cluster.heal();
    for host in cluster.hosts() {
        host.with_disk(|disk| *disk.conduct_mut() = Conduct::default());
        host.hang_disk(Time(0));
        host.set_wall_offset(0);
        host.resume();
        host.forget_ambush();
        host.start();
    }
    for router in cluster.routers() {
        router.resume();
        router.start();
    }
    cluster.trace(|| "the storm is over".to_owned());
}

struct Storm {
    cluster: Rc<Cluster>,
    prng: Prng,
}

impl Storm {
    async fn rage(mut self) {
        let cluster = Rc::clone(&self.cluster);
        let calm_max = cluster.options.calm_max.as_millis() as u64;
        loop {
            let pause = self.prng.range(10, calm_max);
            cluster.world.sleep(ms(pause)).await;
            if cluster.is_calm.get() {
                return;
            }
            let danger = *self.prng.pick(&cluster.options.dangers).expect("not empty");
            let strike = Strike {
                cluster: Rc::clone(&cluster),
                prng: self.prng.fork(),
            };
            drop(cluster.world.spawn(strike.hit(danger)));
        }
    }
}

/// One misfortune.
struct Strike {
    cluster: Rc<Cluster>,
    prng: Prng,
}

impl Strike {
    async fn hit(mut self, danger: Danger) {
        self.cluster.trace(|| format!("danger: {danger:?}"));
        match danger {
            Danger::Partition => self.partition().await,
            Danger::LonelyLeader => self.lonely_leader().await,
            Danger::Weather => self.weather().await,
            Danger::Pause => self.pause().await,
            Danger::Kill => self.end_one(End::Killed).await,
            Danger::PowerCut => self.end_one(End::PowerCut).await,
            Danger::PowerCutOfAll => self.power_cut_of_all(),
            Danger::FallingLeaders => self.falling_leaders().await,
            Danger::KillThenPowerCut => self.kill_then_power_cut().await,
            Danger::FlipLog => {
                self.flip(Host::flip_log);
            }
            Danger::FlipSnapshot => self.flip_snapshot(),
            Danger::SlowDisk => self.slow_disk().await,
            Danger::HangingDisk => self.hang_disk(),
            Danger::FullDisk => self.full_disk().await,
            Danger::FailedSync => {
                let host = self.host();
                host.with_disk(|disk| disk.conduct_mut().fail_next_sync = true);
            }
            Danger::ClockJump => self.clock_jump().await,
            Danger::Transfer => self.transfer(),
            Danger::Snapshot => {
                let host = self.host();
                for group in host.hosted() {
                    host.deliver_now(Incoming::Control(Control::Snapshot { group }));
                }
            }
            Danger::Shutdown => {
                let host = self.host();
                host.deliver_now(Incoming::Control(Control::Shutdown));
            }
            Danger::Wipe => self.wipe(),
            Danger::Disconnect => {
                if self.host().disconnect_one() {
                    self.cluster.hit(Mark::Disconnects);
                }
            }
        }
    }

    async fn sleep(&mut self, low_ms: u64, high_ms: u64) {
        let pause = ms(self.prng.range(low_ms, high_ms));
        self.cluster.world.sleep(pause).await;
    }

    /// The group whose leader suffers.
    fn group(&mut self) -> GroupId {
        match self.cluster.options.seats() && self.prng.chance(1, 2) {
            true => MANAGER,
            false => GROUP,
        }
    }

    /// Any machine; often the one that leads, which matters most.
    fn host(&mut self) -> Rc<Host> {
        let hosts = self.cluster.hosts();
        let group = self.group();
        let leader = hosts.iter().find(|host| leads(host, group));
        match leader.filter(|_| self.prng.chance(1, 2)) {
            Some(host) => Rc::clone(host),
            None => Rc::clone(self.prng.pick(&hosts).expect("a machine")),
        }
    }

    async fn partition(&mut self) {
        let nodes = self.cluster.options.machines();
        self.cluster.hit(Mark::Partitions);
        let victim = self.host().index();
        let other = self.prng.index(nodes);
        let mut sides: Vec<bool> = (0..nodes).map(|_| self.prng.chance(1, 2)).collect();
        let shape = self.prng.below(5);
        for from in 0..nodes {
            for to in 0..nodes {
                let is_cut = match shape {
                    // One node off.
                    0 => from == victim || to == victim,
                    // A split.
                    1 => sides[from] != sides[to],
                    // Deaf, or dumb.
                    2 => to == victim,
                    3 => from == victim,
                    // A bridge: one node still hears both sides.
                    _ => {
                        sides[victim] = !sides[other];
                        from != other && to != other && sides[from] != sides[to]
                    }
                };
                if is_cut {
                    self.cluster.enable(from, to, false);
                }
            }
        }
        self.sleep(200, 4_000).await;
        for from in 0..nodes {
            for to in 0..nodes {
                self.cluster.enable(from, to, true);
            }
        }
    }

    /// Whoever leads is cut off from the others and goes on, as it thinks, with clients that read there.
    async fn lonely_leader(&mut self) {
        let cluster = Rc::clone(&self.cluster);
        let hosts = cluster.hosts();
        let group = self.group();
        let Some(leader) = hosts.iter().position(|host| leads(host, group)) else {
            return;
        };
        let others = (0..hosts.len()).filter(|other| *other != leader);
        let set = |is_enabled| {
            for other in others.clone() {
                cluster.enable(leader, other, is_enabled);
                cluster.enable(other, leader, is_enabled);
            }
        };
        set(false);
        cluster.lonely.set(Some(leader));
        self.sleep(1_000, 3_000).await;
        cluster.lonely.set(None);
        set(true);
    }

    async fn weather(&mut self) {
        let weather = Weather {
            reliable: self.prng.chance(1, 3),
            jitter_max: Duration::from_micros(self.prng.below(30_000)),
            ..Weather::default()
        };
        let duplicates = self.prng.below(200);
        self.cluster.set_weather(weather, duplicates);
        self.sleep(500, 5_000).await;
        self.cluster.set_weather(Weather::default(), 0);
    }

    async fn pause(&mut self) {
        let host = self.host();
        self.cluster.hit(Mark::Pauses);
        host.pause();
        match self.prng.chance(1, 2) {
            true => self.sleep(10, 300).await,
            false => self.sleep(300, 3_000).await,
        }
        host.resume();
    }

    async fn end_one(&mut self, end: End) {
        let host = self.host();
        self.cluster.hit(match end {
            End::Killed => Mark::Kills,
            End::PowerCut => Mark::PowerCuts,
        });
        if self.prng.chance(1, 2) {
            return host.lie_in_wait(end);
        }
        host.end(end);
        self.sleep(5, 3_000).await;
        host.start();
    }

    /// Now, or at the next election, when votes have been given and nothing came of them yet.
    fn power_cut_of_all(&mut self) {
        match self.prng.chance(1, 2) {
            true => self.cluster.is_cut_at_election.set(true),
            false => self.cluster.cut_power(),
        }
    }

    /// One leader after the other falls, soon after it was elected: some entries of each are on some
    /// disks, and which of them last is decided by the ones after (Raft paper, figure 8).
    async fn falling_leaders(&mut self) {
        let cluster = Rc::clone(&self.cluster);
        let group = self.group();
        for _ in 0..self.prng.range(3, 12) {
            let until = cluster.world.now() + ms(2_000);
            let leader = loop {
                let hosts = cluster.hosts();
                let leader = hosts.iter().find(|host| leads(host, group)).cloned();
                if cluster.is_calm.get() {
                    return;
                }
                if leader.is_some() || cluster.world.now() >= until {
                    break leader;
                }
                self.sleep(1, 3).await;
            };
            let Some(leader) = leader else { continue };
            match self.prng.chance(1, 5) {
                true => self.sleep(10, 300).await,
                false => self.sleep(1, 15).await,
            }
            if cluster.is_calm.get() {
                return;
            }
            cluster.hit(Mark::FallenLeaders);
            leader.end(End::Killed);
            let delay = ms(self.prng.range(5, 1_500));
            cluster.world.after(delay, move || leader.start());
        }
    }

    /// What a killed process left in the page cache is read, believed, and then lost with the power.
    async fn kill_then_power_cut(&mut self) {
        let hosts = match self.prng.chance(1, 2) {
            true => self.cluster.hosts(),
            false => vec![self.host()],
        };
        self.cluster.hit(Mark::Kills);
        for host in &hosts {
            host.end(End::Killed);
        }
        self.sleep(1, 20).await;
        for host in &hosts {
            host.start();
        }
        match self.prng.chance(1, 2) {
            true => self.sleep(1, 60).await,
            false => self.sleep(60, 2_000).await,
        }
        if self.cluster.is_calm.get() {
            return;
        }
        if self.prng.chance(1, 2) {
            return self.power_cut_of_all();
        }
        self.cluster.hit(Mark::PowerCuts);
        for host in &hosts {
            host.end(End::PowerCut);
        }
        self.sleep(5, 500).await;
        for host in &hosts {
            host.start();
        }
    }

    /// Ends a process, flips a bit, and starts it again; if a minority at most suffers.
    fn flip(&mut self, flip: impl Fn(&Host) -> bool) -> bool {
        let host = self.host();
        if !self.cluster.may_lose(host.index()) {
            return false;
        }
        let end = match self.prng.chance(1, 2) {
            true => End::Killed,
            false => End::PowerCut,
        };
        host.end(end);
        let has_flipped = flip(&host);
        self.cluster.trace(|| {
            let node = node_id(host.index());
            format!("node {node}: a bit flips: {has_flipped}")
        });
        host.start();
        has_flipped
    }

    /// Somebody empties a directory, and what starts there with the same flags is another node.
    fn wipe(&mut self) {
        let host = self.host();
        if self.cluster.options.changes && self.cluster.may_lose(host.index()) {
            self.cluster.hit(Mark::WipedNodes);
            host.wipe();
            host.start();
        }
    }

    fn flip_snapshot(&mut self) {
        if self.flip(Host::flip_snapshot) {
            self.cluster.hit(Mark::FlippedSnapshots);
        }
    }

    async fn slow_disk(&mut self) {
        let host = self.host();
        self.cluster.hit(Mark::SlowDisks);
        let slowest = self.prng.range(5, 200);
        host.with_disk(|disk| {
            let conduct = disk.conduct_mut();
            conduct.sync_min = ms(slowest / 4);
            conduct.sync_max = ms(slowest);
        });
        self.sleep(500, 5_000).await;
        host.with_disk(|disk| {
            let conduct = disk.conduct_mut();
            conduct.sync_min = Conduct::default().sync_min;
            conduct.sync_max = Conduct::default().sync_max;
        });
    }

    fn hang_disk(&mut self) {
        let host = self.host();
        self.cluster.hit(Mark::HangingDisks);
        let until = self.cluster.world.now() + ms(self.prng.range(300, 4_000));
        host.hang_disk(until);
    }

    async fn full_disk(&mut self) {
        let host = self.host();
        host.with_disk(|disk| disk.conduct_mut().capacity = 0);
        self.sleep(500, 6_000).await;
        host.with_disk(|disk| disk.conduct_mut().capacity = Conduct::default().capacity);
    }

    /// One clock at a time is wrong: with two of three there is no median to go by.
    async fn clock_jump(&mut self) {
        if self.cluster.is_clock_wrong.replace(true) {
            return;
        }
        let host = self.host();
        self.cluster.hit(Mark::ClockJumps);
        let far = *self
            .prng
            .pick(&[500, 10_000, DAY_MS, 365 * DAY_MS])
            .expect("one");
        let distance = self.prng.range(1, far) as i64;
        let ahead = self.prng.chance(1, 2);
        host.set_wall_offset(if ahead { distance } else { -distance });
        self.sleep(300, 5_000).await;
        host.set_wall_offset(0);
        // What was heard of it goes stale a while later.
        self.sleep(3_000, 5_000).await;
        self.cluster.is_clock_wrong.set(false);
    }

    fn transfer(&mut self) {
        let hosts = self.cluster.hosts();
        let wanted = self.group();
        let Some(leader) = hosts.iter().find(|host| leads(host, wanted)) else {
            return;
        };
        self.cluster.hit(Mark::Transfers);
        let to = self.prng.index(hosts.len() + 1);
        let to = hosts.get(to).map(|host| node_id(host.index()));
        let groups = leader.hosted();
        let led = |group: &GroupId| leads(leader, *group);
        let group = match wanted {
            MANAGER => Some(MANAGER),
            _ => groups.into_iter().rfind(led),
        };
        if let Some(group) = group {
            leader.deliver_now(Incoming::Control(Control::Transfer { group, to }));
        }
    }
}

fn leads(host: &Host, group: GroupId) -> bool {
    let leads = host.with_node(|node| {
        let replica = node.inspect(group);
        replica.is_some_and(|replica| replica.raft.is_leader())
    });
    leads == Some(true)
}

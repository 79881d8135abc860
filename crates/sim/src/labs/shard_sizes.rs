//! What servers of the sharding labs keep: logs, snapshots, and what is in memory.

use kvorum_base::{GroupId, Slot};
use kvorum_node::Control;

use super::kv_cluster::{LOG_SIZE_FACTOR, log_bytes_of};
use super::shards::ShardCluster;
use crate::world::ms;

impl ShardCluster {
    /// The servers of the labs' groups.
    fn group_servers(&self) -> impl Iterator<Item = usize> + '_ {
        let groups = self.ground().groups();
        groups.flat_map(|group| self.ground().servers_of(group))
    }

    /// Insists that logs are short; or, where no snapshots are wanted, that there are none.
    ///
    /// # Panics
    /// If it is not so.
    pub fn check_logs(&self) {
        for server in self.group_servers() {
            let snapshots = self.snapshot_sizes(server);
            let Some(wanted) = self.setup().log_bytes else {
                assert!(snapshots.is_empty(), "server {server} has a snapshot");
                continue;
            };
            for (group, recovered) in self.groups_in_log(server) {
                let log = log_bytes_of(&recovered);
                let snapshot = snapshots.get(&group).copied().unwrap_or(0);
                assert!(
                    log <= LOG_SIZE_FACTOR * wanted + snapshot,
                    "server {server}: {log} bytes beside a snapshot of {snapshot}, wanted {wanted}"
                );
            }
        }
    }

    /// How many bytes all servers of groups keep: logs above snapshots, and all snapshots that are there.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        let kept = self.group_servers().map(|server| {
            let logs = self.groups_in_log(server);
            let logs: u64 = logs.values().map(log_bytes_of).sum();
            logs + self.snapshot_bytes(server)
        });
        kept.sum()
    }

    /// The size of the largest snapshot of a group's servers.
    #[must_use]
    pub fn snapshot_size_of(&self, group: usize) -> u64 {
        let servers = self.ground().servers_of(group);
        let sizes = servers.flat_map(|server| self.snapshot_sizes(server).into_values());
        sizes.max().unwrap_or(0)
    }

    /// How many replicas hold anything of a shard in memory.
    #[must_use]
    pub fn copies_of(&self, shard: u16) -> usize {
        let holds = |server: usize, group: GroupId| {
            let look = |node: &kvorum_node::Node| {
                let (_, keyspace) = node.inspect(group)?.state?;
                Some(keyspace.slot_len(Slot(shard)) > 0)
            };
            self.host(server).with_node(look).flatten() == Some(true)
        };
        let hosted = self.group_servers().map(|server| {
            let groups = self.host(server).hosted().into_iter();
            groups.filter(|group| holds(server, *group)).count()
        });
        hosted.sum()
    }

    /// Has every server write a snapshot of each of its groups, and waits until it has had the time.
    pub async fn take_snapshots(&self) {
        for server in self.group_servers() {
            for group in self.host(server).hosted() {
                self.cluster().control(server, Control::Snapshot { group });
            }
        }
        self.sleep(ms(500)).await;
    }
}

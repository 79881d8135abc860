//! What clients of the sharding labs do: keys whose values are known, read and added to by one clerk or by
//! one for each key, and reads of which only those can end whose group is there.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::clerk::Clerk;
use super::shards::ShardCluster;
use crate::world::{Joining, Time, ms};

/// The labs' rule: after so long without a read that ends, the others are taken to wait.
const SILENCE: Duration = Duration::from_secs(2);
/// Once everything is well a client's last operation ends within this time.
const LAST_OPERATION_MAX: Duration = Duration::from_secs(10);

struct Key {
    shard: u16,
    key: String,
    value: RefCell<String>,
}

/// Keys and what they must hold.
#[derive(Clone)]
pub struct Table {
    shards: ShardCluster,
    keys: Rc<Vec<Key>>,
}

impl Table {
    /// Keys that are called and placed so, and hold nothing yet.
    #[must_use]
    pub fn new(shards: &ShardCluster, keys: impl IntoIterator<Item = (u16, String)>) -> Self {
        let key = |(shard, name): (u16, String)| Key {
            shard,
            key: shards.ground().key(shard, &name),
            value: RefCell::default(),
        };
        Self {
            shards: shards.clone(),
            keys: Rc::new(keys.into_iter().map(key).collect()),
        }
    }

    /// The keys "0", "1" and so on of the labs, each in the shard that its first byte names.
    #[must_use]
    pub fn numbered(shards: &ShardCluster, count: usize) -> Self {
        let named = (0..count).map(|number| {
            let name = number.to_string();
            let first = u16::from(name.as_bytes()[0]);
            (first % shards.ground().shards(), name)
        });
        Self::new(shards, named)
    }

    /// The keys "k0", "k1" and so on of the later labs, each in the shard that its hash (FNV-1a) names.
    #[must_use]
    pub fn hashed(shards: &ShardCluster, count: usize) -> Self {
        let named = (0..count).map(|number| {
            let name = format!("k{number}");
            let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            let shard = hash % u32::from(shards.ground().shards());
            (shard as u16, name)
        });
        Self::new(shards, named)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key as the store has it.
    #[must_use]
    pub fn key(&self, index: usize) -> &str {
        &self.keys[index].key
    }

    /// Those of these shards.
    #[must_use]
    pub fn of_shards(&self, shards: &BTreeSet<u16>) -> Vec<usize> {
        let all = 0..self.len();
        all.filter(|index| shards.contains(&self.keys[*index].shard))
            .collect()
    }

    /// Sets a key.
    pub async fn put(&self, clerk: &Clerk, index: usize, value: &str) {
        let key = &self.keys[index];
        clerk.put(&key.key, value).await;
        value.clone_into(&mut key.value.borrow_mut());
    }

    /// Sets every key to some text of this length.
    pub async fn put_all(&self, clerk: &Clerk, len: usize) {
        for index in 0..self.len() {
            let text = self.text(len);
            self.put(clerk, index, &text).await;
        }
    }

    /// Insists that a key holds what it must.
    ///
    /// # Panics
    /// If it does not.
    pub async fn check(&self, clerk: &Clerk, index: usize) {
        let key = &self.keys[index];
        let value = clerk.get(&key.key).await;
        assert_eq!(value, *key.value.borrow(), "key {}", key.key);
    }

    /// Insists that every key holds what it must.
    pub async fn check_all(&self, clerk: &Clerk) {
        for index in 0..self.len() {
            self.check(clerk, index).await;
        }
    }

    /// Adds some text of this length to a key.
    pub async fn append(&self, clerk: &Clerk, index: usize, len: usize) {
        let (key, text) = (&self.keys[index], self.text(len));
        clerk.append(&key.key, &text).await;
        key.value.borrow_mut().push_str(&text);
    }

    /// Looks at each key, and adds some text of this length to it.
    pub async fn check_and_append_all(&self, clerk: &Clerk, len: usize) {
        for index in 0..self.len() {
            self.check(clerk, index).await;
            self.append(clerk, index, len).await;
        }
    }

    /// Some letters.
    #[must_use]
    pub fn text(&self, len: usize) -> String {
        let letter = |_| char::from(b'a' + self.shards.below(26) as u8);
        (0..len).map(letter).collect()
    }

    /// One fresh clerk for each key reads it, all at once; says which of them end before there was silence
    /// for long. The others go on.
    ///
    /// # Panics
    /// If one reads what is not there.
    pub async fn read_at_once(&self, clerk: impl Fn() -> Clerk) -> (BTreeSet<usize>, Duration) {
        let world = self.shards.world().clone();
        let ended: Rc<RefCell<BTreeSet<usize>>> = Rc::default();
        let begun = world.now();
        let last = Rc::new(Cell::new(begun));
        for index in 0..self.len() {
            let (table, clerk, ended, last) =
                (self.clone(), clerk(), Rc::clone(&ended), Rc::clone(&last));
            drop(world.spawn(async move {
                table.check(&clerk, index).await;
                ended.borrow_mut().insert(index);
                last.set(table.shards.world().now());
            }));
        }
        while world.now() - last.get() < SILENCE {
            self.shards.sleep(ms(50)).await;
        }
        let ended = ended.borrow().clone();
        (ended, last.get() - begun)
    }

    /// Begins to add text of this length to every key, each by a clerk of its own, with a pause of up to
    /// this long between two.
    #[must_use]
    pub fn keep_appending(&self, len: usize, pause_max: Duration) -> Working {
        self.keep(self.len(), pause_max, async move |table, clerk, index| {
            table.append(clerk, index, len).await;
        })
    }

    /// Begins to work on all keys at once with so many clerks: half of what they do adds to a key, one in
    /// twenty sets one, and the rest reads. What must be there is for the judge of the history to say.
    #[must_use]
    pub fn keep_mixing(&self, clerks: usize, pause_max: Duration) -> Working {
        self.keep(clerks, pause_max, async |table, clerk, _| {
            let index = table.shards.below(table.len() as u64) as usize;
            let (key, text) = (table.key(index), table.text(5));
            match table.shards.below(100) {
                0..50 => clerk.append(key, &text).await,
                50..55 => clerk.put(key, &text).await,
                _ => drop(clerk.get(key).await),
            }
        })
    }

    /// Has so many clerks do this again and again, with a pause of up to this long between two times.
    fn keep(
        &self,
        clerks: usize,
        pause_max: Duration,
        act: impl AsyncFn(&Self, &Clerk, usize) + 'static,
    ) -> Working {
        let (stop, act) = (Rc::new(Cell::new(false)), Rc::new(act));
        let tasks = (0..clerks).map(|index| {
            let (table, stop, act) = (self.clone(), Rc::clone(&stop), Rc::clone(&act));
            let clerk = self.shards.clerk(&self.shards.all());
            self.shards.world().spawn(async move {
                let mut count = 0;
                while !stop.get() {
                    act(&table, &clerk, index).await;
                    count += 1;
                    table.shards.pause(pause_max).await;
                }
                count
            })
        });
        Working {
            tasks: tasks.collect(),
            shards: self.shards.clone(),
            stop,
        }
    }
}

impl ShardCluster {
    /// Waits for up to this long.
    pub async fn pause(&self, most: Duration) {
        let micros = self.below(most.as_micros() as u64 + 1);
        self.sleep(Duration::from_micros(micros)).await;
    }
}

/// Clients at work.
pub struct Working {
    shards: ShardCluster,
    stop: Rc<Cell<bool>>,
    tasks: Vec<Joining<usize>>,
}

impl Working {
    /// Asks the clients to begin nothing new.
    pub fn stop(&self) {
        self.stop.set(true);
    }

    /// Stops the clients, whose last operations must end before long; says how many there were of all.
    ///
    /// # Panics
    /// If one does not end.
    pub async fn end(self) -> usize {
        self.stop();
        let begun: Time = self.shards.world().now();
        let mut count = 0;
        for (client, task) in self.tasks.into_iter().enumerate() {
            count += task.await.expect("a client ends by itself");
            let took = self.shards.world().now() - begun;
            assert!(
                took <= LAST_OPERATION_MAX,
                "client {client} ends after {took:?}"
            );
        }
        count
    }
}

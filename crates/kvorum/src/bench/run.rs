//! One measurement from begin to end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use kvorum_base::Prng;
use kvorum_server::process::raise_descriptors;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::sleep;

use super::RunOptions;
use super::client::{Client, Source, ask_once};
use super::keys::Keys;
use super::places::Places;
use super::report;
use super::tally::{Tally, Totals};

/// Clients that fill.
const FILLERS: u64 = 16;
/// Kinds of trouble that are shown; the counts tell the rest.
const TROUBLES_MAX: usize = 5;
/// How long a run may go on for replies that are still due at its end.
const LAST_REPLIES: Duration = Duration::from_secs(5);
/// From the last connection to the first request.
const LEAD: Duration = Duration::from_millis(20);

/// What all clients of a run have in common. One thread runs them all.
pub(crate) struct Shared {
    pub(crate) options: RunOptions,
    pub(crate) keys: Keys,
    pub(crate) value: Vec<u8>,
    pub(crate) places: RefCell<Places>,
    pub(crate) tally: RefCell<Tally>,
    pub(crate) end: Cell<Instant>,
    troubles: RefCell<BTreeSet<String>>,
}

impl Shared {
    /// Shows what went wrong, each kind once.
    pub(crate) fn note_trouble(&self, text: &str) {
        let mut troubles = self.troubles.borrow_mut();
        // Errors differ in slots and addresses: the first words tell the kinds apart.
        let kind = text.split(' ').take(2).collect::<Vec<_>>().join(" ");
        if troubles.len() < TROUBLES_MAX && troubles.insert(kind) {
            eprintln!("  {text}");
        }
    }
}

/// Fills if that is wanted, measures, prints.
pub(crate) fn run(options: &RunOptions) -> Result<(), String> {
    let totals = measure(options)?;
    report::print(options, &totals)
}

fn measure(options: &RunOptions) -> Result<Totals, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let keys = Keys::new(options)?;
    let room = raise_descriptors(options.clients);
    if room < options.clients {
        return Err(format!(
            "the system allows {room} connections of this process: raise ulimit -n, or use fewer --clients"
        ));
    }
    let now = Instant::now();
    let shared = Rc::new(Shared {
        value: vec![b'x'; options.value_size as usize],
        places: RefCell::new(Places::new(&options.address)),
        tally: RefCell::new(Tally::new(now)),
        end: Cell::new(now),
        troubles: RefCell::new(BTreeSet::new()),
        keys,
        options: options.clone(),
    });
    LocalSet::new().block_on(&runtime, async {
        if options.cluster {
            learn(&shared).await?;
        }
        if options.fill {
            fill(&shared).await?;
        }
        load(&shared).await
    })
}

/// Asks the named servers, until one answers, who serves what.
async fn learn(shared: &Shared) -> Result<(), String> {
    let mut wrong = String::new();
    for address in &shared.options.address {
        let reply = ask_once(
            address,
            shared.options.password.as_deref(),
            &[b"CLUSTER", b"SLOTS"],
        )
        .await;
        match reply.and_then(|reply| shared.places.borrow_mut().learn(&reply)) {
            Ok(()) => {
                for (address, slots) in shared.places.borrow().shares() {
                    eprintln!("  {address} serves {slots} slots");
                }
                return Ok(());
            }
            Err(error) => wrong = error,
        }
    }
    Err(wrong)
}

/// Writes every key once.
async fn fill(shared: &Rc<Shared>) -> Result<(), String> {
    // As long as it takes: it ends when all is written.
    shared.end.set(Instant::now() + Duration::from_secs(86_400));
    let mut clients = JoinSet::new();
    for number in 0..FILLERS {
        let source = Source::Fill {
            next: number,
            step: FILLERS,
        };
        let mut client = Client::new(shared.clone(), source, number as usize, Prng::new(number));
        client.connect().await?;
        clients.spawn_local(client.work());
    }
    let mut written = 0;
    while !clients.is_empty() {
        tokio::select! {
            _ = clients.join_next() => continue,
            () = sleep(Duration::from_secs(1)) => {}
        }
        let mut tally = shared.tally.borrow_mut();
        let second = tally.close_second(Instant::now());
        written += second.writes.requests;
        eprintln!(
            "  filling: {written} keys, {:.0} a second",
            second.writes.per_second
        );
        if second.errors > 0 {
            return Err("the server refuses what should be there before the measurement".into());
        }
    }
    Ok(())
}

async fn load(shared: &Rc<Shared>) -> Result<Totals, String> {
    let options = &shared.options;
    let count = options.clients;
    let mut chance = Prng::new(options.seed);
    let mut waiting = Vec::new();
    for number in 0..count {
        let mut client = Client::new(
            shared.clone(),
            Source::Closed,
            number as usize,
            chance.fork(),
        );
        client.connect().await?;
        waiting.push(client);
    }
    let begin = Instant::now() + LEAD;
    shared
        .end
        .set(begin + Duration::from_secs(u64::from(options.seconds)));
    sleep(LEAD).await;
    *shared.tally.borrow_mut() = Tally::new(begin);
    let mut clients = JoinSet::new();
    for (number, mut client) in waiting.into_iter().enumerate() {
        if let Some(rate) = options.rate {
            // The moments of all clients together are evenly spread.
            let apart = Duration::from_secs(1) / rate;
            client.become_open(begin + apart * number as u32, apart * count);
        }
        clients.spawn_local(client.work());
    }
    watch(shared, clients).await;
    let is_written = options.reads < 100;
    let tally = shared.tally.replace(Tally::new(begin));
    Ok(tally.close(Instant::now().min(shared.end.get()), is_written))
}

/// Shows each second until all clients have ended.
async fn watch(shared: &Shared, mut clients: JoinSet<()>) {
    let end = shared.end.get();
    let mut next = Instant::now() + Duration::from_secs(1);
    while !clients.is_empty() {
        tokio::select! {
            _ = clients.join_next() => continue,
            () = tokio::time::sleep_until(next.into()) => {}
        }
        next += Duration::from_secs(1);
        if Instant::now() < end {
            report::progress(shared.tally.borrow_mut().close_second(Instant::now()));
        } else if Instant::now() > end + LAST_REPLIES {
            let left = clients.len();
            clients.abort_all();
            eprintln!("  {left} clients had no reply {LAST_REPLIES:?} after the end");
            for _ in 0..left {
                shared.tally.borrow_mut().failed("UNANSWERED");
            }
            return;
        }
    }
    let now = Instant::now();
    report::progress(shared.tally.borrow_mut().close_second(now));
}

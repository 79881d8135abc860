//! The judge of histories, judged: known histories, a slow twin, and big ones.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use kvorum_base::Prng;
use kvorum_sim::checkers::linearizable::{BUDGET, Model, Verdict, check};
use kvorum_sim::checkers::strings::{
    Input, KeyInput, Output, State, Strings, Ttl, Value, check_keys,
};
use kvorum_sim::history::{Operation, Outcome};
use kvorum_sim::on_seeds;
use kvorum_sim::world::{Time, ms};

type StringOperation = Operation<Input, Output>;

const MODEL: Strings = Strings {
    early: Duration::from_millis(20),
    late: Duration::from_millis(20),
};

fn value(text: &str) -> Value {
    Rc::from(text.as_bytes())
}

fn set(text: &str) -> Input {
    Input::set(text.as_bytes())
}

fn got(text: &str) -> Output {
    Output::Value(Some(value(text)))
}

const NIL: Output = Output::Value(None);

/// Times in milliseconds.
fn done(called: u64, returned: u64, input: Input, output: Output) -> StringOperation {
    Operation {
        client: 0,
        input,
        called: Time::from_millis(called),
        returned: Time::from_millis(returned),
        outcome: Outcome::Done(output),
    }
}

fn unknown(called: u64, input: Input) -> StringOperation {
    let outcome = Outcome::Unknown;
    let called = Time::from_millis(called);
    Operation {
        client: 0,
        input,
        called,
        returned: Time::NEVER,
        outcome,
    }
}

fn verdict(history: &[StringOperation]) -> Verdict {
    check(&MODEL, &history.iter().collect::<Vec<_>>(), BUDGET)
}

#[track_caller]
fn good(history: &[StringOperation]) {
    assert_eq!(verdict(history), Verdict::Linearizable);
}

#[track_caller]
fn bad(history: &[StringOperation]) {
    assert!(matches!(verdict(history), Verdict::Violated(_)));
}

#[test]
fn a_read_sees_the_write_before_it() {
    good(&[]);
    good(&[done(0, 1, Input::Get, NIL)]);
    good(&[
        done(0, 1, set("a"), Output::Ok),
        done(2, 3, Input::Get, got("a")),
    ]);
    bad(&[
        done(0, 1, set("a"), Output::Ok),
        done(2, 3, Input::Get, NIL),
    ]);
    bad(&[
        done(0, 1, Input::Get, got("a")),
        done(2, 3, set("a"), Output::Ok),
    ]);
}

#[test]
fn what_overlaps_may_go_either_way_but_not_back() {
    let write = done(0, 10, set("a"), Output::Ok);
    let reads = |first: Output, second: Output| {
        [
            write.clone(),
            done(1, 2, Input::Get, first),
            done(3, 4, Input::Get, second),
        ]
    };
    good(&reads(NIL, NIL));
    good(&reads(NIL, got("a")));
    good(&reads(got("a"), got("a")));
    bad(&reads(got("a"), NIL));
}

#[test]
fn intervals_are_closed() {
    good(&[
        done(0, 5, set("a"), Output::Ok),
        done(5, 6, Input::Get, NIL),
    ]);
    good(&[
        done(5, 6, set("a"), Output::Ok),
        done(0, 5, Input::Get, got("a")),
    ]);
}

#[test]
fn an_unknown_write_may_happen_late_or_never_but_not_twice() {
    let history = |reads: &[(u64, Output)]| {
        let mut history = vec![done(0, 1, set("a"), Output::Ok), unknown(2, set("b"))];
        for (at, output) in reads {
            history.push(done(*at, at + 1, Input::Get, output.clone()));
        }
        history
    };
    good(&history(&[(10, got("a")), (20, got("a"))]));
    good(&history(&[(10, got("a")), (20, got("b"))]));
    bad(&history(&[(10, got("b")), (20, got("a"))]));
    bad(&[done(0, 1, Input::Get, got("b")), unknown(2, set("b"))]);
    let twice = [
        unknown(0, Input::IncrBy(1)),
        done(1, 2, Input::Get, got("1")),
        done(3, 4, Input::Get, got("2")),
    ];
    bad(&twice);
    good(&[
        unknown(0, Input::IncrBy(1)),
        twice[0].clone(),
        twice[1].clone(),
        twice[2].clone(),
    ]);
}

#[test]
fn a_refused_write_did_not_happen() {
    let mut refused = unknown(0, set("a"));
    refused.outcome = Outcome::Refused;
    good(&[refused.clone(), done(5, 6, Input::Get, NIL)]);
    bad(&[refused, done(5, 6, Input::Get, got("a"))]);
}

#[test]
fn a_guarded_append_comes_right_behind_what_was_read() {
    let append = |read: Option<&str>| Input::AppendTo(read.map(value), value("b"));
    let first = done(0, 1, set("a"), Output::Ok);
    let guarded = |read| done(6, 7, append(read), Output::Int(2));
    good(&[first.clone(), guarded(Some("a"))]);
    bad(&[first.clone(), guarded(None)]);
    // As long as what was read, but another value: the update between them would be lost.
    let between = done(2, 3, set("x"), Output::Ok);
    bad(&[first.clone(), between.clone(), guarded(Some("a"))]);
    good(&[first.clone(), between, guarded(Some("x"))]);
    // One that is unknown may have been carried out, but only there.
    let read = |text| done(8, 9, Input::Get, got(text));
    good(&[first.clone(), unknown(2, append(Some("a"))), read("ab")]);
    bad(&[first, unknown(2, append(None)), read("ab")]);
}

#[test]
fn each_command_returns_what_it_must() {
    let conditional = |text: &str, exists| Input::Set {
        value: value(text),
        exists: Some(exists),
        get: false,
        ttl: Ttl::None,
    };
    let get_set = |text: &str| Input::Set {
        value: value(text),
        exists: None,
        get: true,
        ttl: Ttl::None,
    };
    let steps = [
        (conditional("x", true), NIL),
        (conditional("1", false), Output::Ok),
        (conditional("2", false), NIL),
        (Input::IncrBy(41), Output::Int(42)),
        (Input::Append(value("0")), Output::Int(3)),
        (Input::StrLen, Output::Int(3)),
        (get_set("9223372036854775807"), got("420")),
        (Input::IncrBy(1), Output::NotAnInteger),
        (Input::GetDel, got("9223372036854775807")),
        (Input::Exists, Output::Int(0)),
        (Input::Append(value("ab")), Output::Ok),
        (Input::IncrBy(1), Output::NotAnInteger),
        (Input::Exists, Output::Int(1)),
        (Input::Persist, Output::Int(0)),
        (Input::Del, Output::Int(1)),
        (Input::Del, Output::Int(0)),
        (Input::Expire(ms(1)), Output::Int(0)),
        (Input::IncrBy(-3), Output::Int(-3)),
        (Input::Get, got("-3")),
    ];
    let history: Vec<_> = (0..)
        .zip(&steps)
        .map(|(at, (input, output))| done(at * 10, at * 10 + 5, input.clone(), output.clone()))
        .collect();
    good(&history);
    for wrong in 0..history.len() {
        let mut history = history.clone();
        history[wrong].outcome = Outcome::Done(Output::Int(77));
        bad(&history);
    }
}

#[test]
fn a_deadline_has_slack_and_no_way_back() {
    let with_ttl = Input::Set {
        value: value("a"),
        exists: None,
        get: false,
        ttl: Ttl::Set(ms(1000)),
    };
    let history = |reads: &[(u64, Output)]| {
        let mut history = vec![done(0, 10, with_ttl.clone(), Output::Ok)];
        for (at, output) in reads {
            history.push(done(*at, at + 1, Input::Get, output.clone()));
        }
        history
    };
    good(&history(&[
        (970, got("a")),
        (1005, got("a")),
        (1025, NIL),
        (1100, NIL),
    ]));
    good(&history(&[(985, NIL)]));
    bad(&history(&[(970, NIL)]));
    bad(&history(&[(1031, got("a"))]));
    bad(&history(&[(1000, NIL), (1002, got("a"))]));
    let persisted = |at: u64, output| {
        let mut history = history(&[(970, got("a"))]);
        history.push(done(at, at + 1, Input::Persist, Output::Int(output)));
        history.push(done(
            2000,
            2001,
            Input::Get,
            if output == 1 { got("a") } else { NIL },
        ));
        history
    };
    good(&persisted(990, 1));
    good(&persisted(990, 0));
    bad(&persisted(975, 0));
}

#[test]
fn giving_up_is_not_a_pass() {
    let history: Vec<_> = (0..10)
        .map(|at| done(at, at + 1, set("a"), Output::Ok))
        .collect();
    let history: Vec<_> = history.iter().collect();
    assert_eq!(check(&MODEL, &history, 5), Verdict::GaveUp);
    let keyed = |at: u64| Operation {
        client: 0,
        input: KeyInput {
            key: value("k"),
            input: Input::Get,
        },
        called: Time::from_millis(at),
        returned: Time::from_millis(at + 1),
        outcome: Outcome::Done(NIL),
    };
    assert!(check_keys(&MODEL, &[keyed(0), keyed(5)], 1).is_err());
    assert!(check_keys(&MODEL, &[keyed(0), keyed(5)], BUDGET).is_ok());
}

/// Tries all orders of all subsets of the unknown operations: slow and obvious.
fn twin(operations: &[StringOperation], state: &State, placed: &mut BTreeSet<usize>) -> bool {
    let is_known = |at: usize| matches!(operations[at].outcome, Outcome::Done(_));
    let open: Vec<usize> = (0..operations.len())
        .filter(|at| !placed.contains(at))
        .collect();
    if !open.iter().any(|at| is_known(*at)) {
        return true;
    }
    for &candidate in &open {
        let overtakes = |at: &usize| operations[*at].returned < operations[candidate].called;
        if operations[candidate].outcome == Outcome::Refused || open.iter().any(overtakes) {
            continue;
        }
        let mut nexts = Vec::new();
        MODEL.step(state, &operations[candidate], &mut nexts);
        placed.insert(candidate);
        if nexts.iter().any(|next| twin(operations, next, placed)) {
            return true;
        }
        placed.remove(&candidate);
    }
    false
}

fn random_input(prng: &mut Prng) -> Input {
    let text = ["a", "b", "1"][prng.index(3)];
    match prng.below(8) {
        0..3 => Input::Get,
        3 => set(text),
        4 => Input::Append(value(text)),
        5 => Input::IncrBy(1),
        6 => Input::Del,
        _ => Input::Set {
            value: value(text),
            exists: Some(false),
            get: false,
            ttl: Ttl::None,
        },
    }
}

/// Everything that a command of [`random_input`] can return in this state.
fn possible_outputs(state: &State) -> Vec<Output> {
    let mut outputs = vec![Output::Ok, NIL, Output::NotAnInteger];
    outputs.extend((0..=3).map(Output::Int));
    if let Some(value) = state.value() {
        let text = String::from_utf8_lossy(value);
        outputs.push(Output::Value(Some(Rc::clone(value))));
        outputs.push(Output::Int(value.len() as i64 + 1));
        let number: i64 = text.parse().unwrap_or(0);
        outputs.extend((1..=3).map(|by| Output::Int(number + by)));
    }
    outputs
}

/// When one operation was under way (in milliseconds), when between it took effect, and what it asks.
struct Draft {
    called: u64,
    at: u64,
    returned: u64,
    input: Input,
    is_lost: bool,
}

/// A history that was really executed, one operation after the other at random moments of their
/// intervals, so that it is right. Of what is lost half takes effect.
fn executed(prng: &mut Prng, mut drafts: Vec<Draft>) -> Vec<StringOperation> {
    drafts.sort_by_key(|draft| draft.at);
    let mut state = MODEL.initial();
    let mut history: Vec<StringOperation> = Vec::new();
    for draft in drafts {
        let mut operation = unknown(draft.called, draft.input);
        let mut nexts = Vec::new();
        MODEL.step(&state, &operation, &mut nexts);
        if !draft.is_lost {
            operation.returned = Time::from_millis(draft.returned);
            let fits = |output: &Output| {
                let mut nexts = Vec::new();
                let outcome = Outcome::Done(output.clone());
                MODEL.step(
                    &state,
                    &Operation {
                        outcome,
                        ..operation.clone()
                    },
                    &mut nexts,
                );
                !nexts.is_empty()
            };
            let output = possible_outputs(&state).into_iter().find(fits);
            operation.outcome = Outcome::Done(output.expect("every command returns something"));
        }
        if !draft.is_lost || prng.chance(1, 2) {
            state = nexts.remove(0);
        }
        history.push(operation);
    }
    history.sort_by_key(|operation| operation.called);
    history
}

/// A few operations somewhere in 40 ms, and with luck some answers exchanged.
fn small_history(prng: &mut Prng) -> Vec<StringOperation> {
    let width = prng.range(1, 30);
    let drafts = (0..prng.range(1, 7)).map(|_| {
        let called = prng.below(40);
        let returned = called + prng.below(width);
        let (at, is_lost) = (prng.range(called, returned), prng.chance(1, 4));
        Draft {
            called,
            at,
            returned,
            input: random_input(prng),
            is_lost,
        }
    });
    let drafts = drafts.collect();
    let mut history = executed(prng, drafts);
    for _ in 0..prng.below(3) {
        let (liar, other) = (prng.index(history.len()), prng.index(history.len()));
        if history[liar].returned != Time::NEVER && history[other].returned != Time::NEVER {
            history[liar].outcome = history[other].outcome.clone();
        }
    }
    history
}

/// Clients that work on one key as fast as they are answered; `lost` of a thousand operations end
/// in a deadline of 300 ms.
fn hot_key(
    prng: &mut Prng,
    clients: usize,
    count: usize,
    lost: u64,
    input: impl Fn(&mut Prng, usize) -> Input,
) -> Vec<StringOperation> {
    let mut free_at = vec![0; clients];
    let mut drafts = Vec::new();
    for number in 0..count {
        let client = (0..clients)
            .min_by_key(|client| free_at[*client])
            .expect("a client");
        let called = free_at[client] + prng.below(5);
        let returned = called + prng.range(1, 20);
        let is_lost = prng.chance(lost, 1000);
        let at = if is_lost {
            called + prng.below(300)
        } else {
            prng.range(called, returned)
        };
        free_at[client] = if is_lost { called + 300 } else { returned + 1 };
        drafts.push(Draft {
            called,
            at,
            returned,
            input: input(prng, number),
            is_lost,
        });
    }
    executed(prng, drafts)
}

#[test]
fn the_search_agrees_with_its_slow_twin() {
    let (mut right, mut wrong) = (0, 0);
    let mut prng = Prng::new(11);
    for round in 0..4000 {
        let history = small_history(&mut prng);
        let expected = twin(&history, &MODEL.initial(), &mut BTreeSet::new());
        let found = verdict(&history) == Verdict::Linearizable;
        assert_eq!(found, expected, "round {round}: {history:#?}");
        if expected {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(
        right > 1000 && wrong > 500,
        "{right} right and {wrong} wrong histories"
    );
}

/// The labs' mixture: appends and puts of values that never repeat, and gets.
fn append_or_get(prng: &mut Prng, number: usize) -> Input {
    match prng.below(20) {
        0..9 => Input::Get,
        9..18 => Input::Append(value(&format!("x {number} y"))),
        _ => set(&number.to_string()),
    }
}

fn count_or_reset(prng: &mut Prng, number: usize) -> Input {
    match prng.below(20) {
        0..9 => Input::IncrBy(prng.range(1, 3) as i64),
        9..17 => Input::Get,
        17 => Input::Del,
        _ => set(&(number * 1000).to_string()),
    }
}

#[test]
fn thousands_of_operations_on_one_key_are_judged() {
    on_seeds(10, |seed| {
        let mut prng = Prng::new(seed);
        for input in [append_or_get, count_or_reset] {
            let mut history = hot_key(&mut prng, 8, 4000, 10, input);
            good(&history);
            let middle = &mut history[2000..];
            let read = middle.iter_mut().find(|operation| {
                operation.input == Input::Get && operation.returned != Time::NEVER
            });
            read.expect("a read").outcome = Outcome::Done(got("never written"));
            // To prove that no order exists would take too long. Not to find one must not pass.
            let history: Vec<_> = history.iter().collect();
            assert_ne!(check(&MODEL, &history, 50_000), Verdict::Linearizable);
        }
    });
}

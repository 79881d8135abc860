//! The self-tests of the labs' network, on the simulated one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use kvorum_sim::net::{Answering, EndId, Net, Payload, ServerId, Weather};
use kvorum_sim::on_seeds;
use kvorum_sim::world::{World, ms};

#[derive(Clone, PartialEq, Debug)]
struct Text(String);

impl Payload for Text {
    fn size(&self) -> usize {
        self.0.len()
    }
}

type TextNet = Net<Text, Text>;

const SERVER: ServerId = ServerId(99);

fn text(text: impl std::fmt::Display) -> Text {
    Text(format!("{text}"))
}

/// A network with one server that answers `handler-<request>`, and how often it ran.
fn make(seed: u64) -> (World, TextNet, Rc<Cell<u64>>) {
    let world = World::new(seed);
    let net = TextNet::new(&world);
    let ran = Rc::new(Cell::new(0));
    let counter = Rc::clone(&ran);
    net.add_server(SERVER, move |request, answering| {
        counter.set(counter.get() + 1);
        answering.answer(Text(format!("handler-{}", request.0)));
    });
    (world, net, ran)
}

fn open_end(net: &TextNet) -> EndId {
    let end = net.make_end(SERVER);
    net.enable(end, true);
    end
}

#[test]
fn a_call_is_answered_without_delay() {
    let (world, net, _) = make(1);
    let answer = world.run(net.ask(open_end(&net), text(111)));
    assert_eq!(answer, Some(text("handler-111")));
    assert_eq!(world.now().as_millis(), 0);
}

#[test]
fn a_closed_end_answers_no_until_it_is_opened() {
    on_seeds(20, |seed| {
        let (world, net, ran) = make(seed);
        let end = net.make_end(SERVER);
        assert_eq!(world.run(net.ask(end, text(1))), None);
        assert!(world.now().as_millis() < 100);
        net.set_weather(Weather {
            long_delays: true,
            ..Weather::default()
        });
        assert_eq!(world.run(net.ask(end, text(1))), None);
        assert!(world.now().as_millis() < 7100);
        assert_eq!(ran.get(), 0);
        net.enable(end, true);
        assert_eq!(world.run(net.ask(end, text(2))), Some(text("handler-2")));
    });
}

#[test]
fn calls_are_counted_where_they_arrive() {
    let (world, net, _) = make(1);
    let end = open_end(&net);
    for number in 0..17 {
        assert!(world.run(net.ask(end, text(number))).is_some());
    }
    assert_eq!(net.incoming(SERVER), 17);
    net.enable(end, false);
    assert!(world.run(net.ask(end, text(0))).is_none());
    assert_eq!((net.incoming(SERVER), net.calls()), (17, 18));
}

#[test]
fn bytes_are_counted_both_ways() {
    let (world, net, _) = make(1);
    let end = open_end(&net);
    let request = text("x".repeat(284));
    for _ in 0..17 {
        assert!(world.run(net.ask(end, request.clone())).is_some());
    }
    assert_eq!(net.bytes(), 17 * (284 + 292));
}

#[test]
fn many_callers_each_get_their_own_answers() {
    on_seeds(5, |seed| {
        let (world, net, _) = make(seed);
        let complete = Rc::new(Cell::new(0));
        for caller in 0..20 {
            let (net, complete) = (net.clone(), Rc::clone(&complete));
            let end = open_end(&net);
            drop(world.spawn(async move {
                for call in 0..10 {
                    let number = caller * 100 + call;
                    let answer = net.ask(end, text(number)).await;
                    assert_eq!(answer, Some(Text(format!("handler-{number}"))));
                    complete.set(complete.get() + 1);
                }
            }));
        }
        world.run(world.sleep(ms(1)));
        assert_eq!((complete.get(), net.incoming(SERVER)), (200, 200));
    });
}

#[test]
fn an_unreliable_network_loses_some_and_changes_none() {
    on_seeds(20, |seed| {
        let (world, net, ran) = make(seed);
        net.set_weather(Weather {
            reliable: false,
            ..Weather::default()
        });
        let good = Rc::new(Cell::new(0u64));
        for number in 0..300 {
            let (net, good) = (net.clone(), Rc::clone(&good));
            let end = open_end(&net);
            drop(world.spawn(async move {
                if let Some(answer) = net.ask(end, text(number)).await {
                    assert_eq!(answer, Text(format!("handler-{number}")));
                    good.set(good.get() + 1);
                }
            }));
        }
        world.run(world.sleep(ms(30)));
        // 0.81 of them succeed and 0.9 of the handlers run, give or take.
        assert!((200..285).contains(&good.get()), "{} succeeded", good.get());
        assert!(
            ran.get() > good.get() && ran.get() < 300,
            "{} ran",
            ran.get()
        );
    });
}

#[test]
fn twenty_calls_share_one_end() {
    let (world, net, ran) = make(1);
    let end = open_end(&net);
    let complete = Rc::new(Cell::new(0));
    for number in 0..20 {
        let complete = Rc::clone(&complete);
        net.call(end, text(number), move |answer| {
            assert!(answer.is_some());
            complete.set(complete.get() + 1);
        });
    }
    world.run(world.sleep(ms(1)));
    assert_eq!(
        (complete.get(), ran.get(), net.incoming(SERVER)),
        (20, 20, 20)
    );
}

#[test]
fn failed_calls_do_not_hold_up_later_ones() {
    on_seeds(20, |seed| {
        let (world, net, ran) = make(seed);
        let end = net.make_end(SERVER);
        let ended = Rc::new(Cell::new(0));
        for number in 0..20 {
            let ended = Rc::clone(&ended);
            net.call(end, text(number), move |answer| {
                assert_eq!(answer, None);
                ended.set(ended.get() + 1);
            });
        }
        world.run(world.sleep(ms(100)));
        net.enable(end, true);
        let before = world.now();
        assert!(world.run(net.ask(end, text(99))).is_some());
        assert!(world.now() - before < ms(30));
        world.run(world.sleep(ms(100)));
        assert_eq!((ended.get(), ran.get(), net.incoming(SERVER)), (20, 1, 1));
    });
}

#[test]
fn a_deleted_server_ends_the_calls_it_was_handling() {
    let (world, net, _) = make(1);
    let kept: Rc<RefCell<Vec<Answering<Text, Text>>>> = Rc::default();
    let keep = Rc::clone(&kept);
    net.add_server(SERVER, move |_, answering| {
        keep.borrow_mut().push(answering);
    });
    let ended = Rc::new(Cell::new(false));
    let end_seen = Rc::clone(&ended);
    net.call(open_end(&net), text(1), move |answer| {
        assert_eq!(answer, None);
        end_seen.set(true);
    });
    world.run(world.sleep(ms(1100)));
    assert!(!ended.get());
    net.delete_server(SERVER);
    world.run(world.sleep(ms(100)));
    assert!(ended.get());
    assert!(!kept.borrow()[0].is_awaited());
    kept.borrow_mut().clear();
}

#[test]
fn an_answer_over_a_link_that_was_cut_is_lost_but_its_effects_stay() {
    let (world, net, _) = make(1);
    let ran = Rc::new(Cell::new(false));
    let end = open_end(&net);
    let (net_too, ran_too) = (net.clone(), Rc::clone(&ran));
    net.add_server(SERVER, move |request, answering| {
        ran_too.set(true);
        net_too.enable(end, false);
        answering.answer(request);
    });
    assert_eq!(world.run(net.ask(end, text(1))), None);
    assert!(ran.get());
}

#[test]
fn held_answers_arrive_late_even_over_a_cut_link() {
    let (world, net, _) = make(3);
    net.set_weather(Weather {
        long_reordering: true,
        ..Weather::default()
    });
    let end = open_end(&net);
    let arrivals: Rc<RefCell<Vec<u64>>> = Rc::default();
    for _ in 0..300 {
        let (arrivals, world) = (Rc::clone(&arrivals), world.clone());
        net.call(end, text(1), move |answer| {
            assert!(answer.is_some());
            arrivals.borrow_mut().push(world.now().as_millis());
        });
    }
    world.run(world.sleep(ms(1)));
    net.enable(end, false);
    world.run(world.sleep(Duration::from_secs(3)));
    let arrivals = arrivals.borrow();
    let held = arrivals.iter().filter(|at| **at > 0).count();
    assert_eq!(arrivals.len(), 300);
    assert!((150..250).contains(&held), "{held} of 300 were held");
    assert!(
        arrivals
            .iter()
            .all(|at| *at == 0 || (200..2200).contains(at))
    );
}

//! Ten thousand random runs of the whole pipeline, checked against the promises of docs/design.md §1.
//!
//! Everything that decides is the real code: steps 2 and 4 to 7 of `pipeline`, every agent's object, and the caches
//! and circuits of two isolates. The world around them (`world`) is simulated: a registry and a D1 that work, fail or
//! are slow, a clock, and calls that take time, so that anything can happen between any two steps of a request. Only
//! signatures are left out. They cost more than everything else, and the pipeline's other tests cover them.
//!
//! 1. Nothing is accepted that was admitted after its agent's revocation was written.
//! 2. A captured request is accepted once.
//! 3. No access token is accepted in a request that was admitted after the event that ended its session.
//! 4. An agent whose present access token was validated less than the stale limit ago gets no 503 and no 403 for want
//!    of an answer, whatever the registry and D1 do and in whichever isolate.
//! 5. A registry that fails gets no more calls than the circuit allows.
//! 6. Nothing takes longer than the registry's budget and our own calls together.

use super::*;

mod fixtures;
mod gate;
mod isolate;
mod world;

use self::fixtures::{Fixtures, Proven};
use self::world::{ACCESS_STALE_MS, BUDGET_MS, Dependency, MINUTE_MS, Mode, Tally, World};

const SEEDS: u64 = 5_000;
const STEPS: u32 = 30;
const ALL: Policy = Policy {
    known_agent: true,
    access_token: true,
};
/// Of D1 and of the objects, in one request, at most.
const OWN_CALLS_MS: u64 = 4_000;

#[test]
fn the_promises_hold_in_ten_thousand_random_lives_first_half() {
    lives(0);
}

#[test]
fn the_promises_hold_in_ten_thousand_random_lives_second_half() {
    lives(SEEDS);
}

fn lives(from: u64) {
    let fixtures = Fixtures::new();
    let mut ended = Tally::default();
    for seed in from..from + SEEDS {
        let world = World::new(seed, fixtures.clone());
        for _ in 0..STEPS {
            step(&world);
            world.pass(pause_ms(&world));
            hold_the_circuits_to_their_word(&world);
        }
        world.pass(10 * MINUTE_MS);
        ended.add(&world.ended());
    }
    // Whoever breaks the world so that it refuses everything, breaks this.
    assert!(
        ended.accepted > SEEDS * 5 && ended.refused > SEEDS && ended.unavailable > SEEDS / 2,
        "{ended:?}"
    );
}

fn pause_ms(world: &World) -> u64 {
    match world.roll(20) {
        0 => world.roll(20 * MINUTE_MS),
        1..4 => world.roll(MINUTE_MS),
        4..8 => world.roll(6_000),
        _ => world.roll(100),
    }
}

fn step(world: &World) {
    match world.roll(50) {
        0..3 => world.change_registry(),
        3..5 => world.change_d1(),
        5 => world.end_session(),
        6..8 => world.refresh_token(),
        8..10 => world.change_pairs(),
        10 if world.roll(3) == 0 => world.revoke(),
        11 => world.rotate_and_reissue(),
        12..14 => world.evict_isolate(),
        14..16 => world.evict_object(),
        16..19 => {
            if let Some(captured) = world.captured() {
                request(world, captured);
            }
        }
        _ => request(world, world.fresh_request()),
    }
}

/// One request, and what must be true of its end.
fn request(world: &World, request: Rc<Proven>) {
    let gate = world.gate(&request);
    let (here, before) = (world.clone(), world.view(&gate));
    world.spawn(async move {
        let answer = walk(&gate, &request).await;
        let after = here.view(&gate);
        let claim = |holds: bool, what: &str| {
            here.claim(holds, &format!("{what}: {answer:?}, {before:?}, {after:?}"))
        };

        let took_ms = after.now_ms - before.now_ms;
        claim(took_ms <= BUDGET_MS + OWN_CALLS_MS, "it took too long");
        match &answer {
            Ok(_) => {
                let admitted = gate.admitted_at.get().unwrap_or(u64::MAX);
                let since = |event: Option<u64>| event.is_some_and(|at| at < admitted);
                claim(!since(after.revoked_at), "accepted though revoked");
                claim(!since(here.session_ended_at(&request)), "accepted a dead session");
                claim(here.accept(&request), "a captured request was accepted twice");
            }
            Err(Refusal::DependencyUnavailable {
                what: "registry_access",
                ..
            }) => {
                let alive = |at_ms: u64| after.now_ms - at_ms < ACCESS_STALE_MS;
                let known = before.kept_at_ms.is_some_and(alive) && before.session == after.session;
                claim(!known, "503 for a validated token");
            }
            Err(Refusal::DependencyUnavailable {
                what: "registry_keys",
                ..
            }) => {
                claim(
                    !(before.key_in_d1 && before.d1_well && after.d1_well),
                    "503 with the key in D1",
                );
            }
            Err(
                Refusal::DependencyUnavailable { .. }
                | Refusal::TrustUnavailable { .. }
                | Refusal::UnknownAgent
                | Refusal::Internal(_),
            ) => claim(false, "nobody may say so"),
            Err(_) => {}
        }
        here.end(&answer);
    });
}

/// What `verify` does, without the proof's signature.
async fn walk(gate: &gate::Gate, request: &Proven) -> Result<Verified, Refusal> {
    let identified = identify(gate, Some(&request.authorization)).await?;
    decide(gate, identified, &request.proof, Some(&request.access_token), ALL).await
}

/// Five and those in flight, then the slower of one per pause and what never opens a circuit: five a minute.
fn hold_the_circuits_to_their_word(world: &World) {
    if world.registry() == Mode::Well {
        return;
    }
    for dependency in Dependency::ALL {
        world.outages(dependency, |outage, lasted_ms| {
            let allowed = 5 + outage.in_flight_at_fifth + 1 + lasted_ms / (MINUTE_MS / 5);
            world.claim(
                outage.failures < 5 || outage.calls <= allowed,
                "a registry that fails was not left alone",
            );
        });
    }
}

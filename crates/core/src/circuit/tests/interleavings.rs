//! Random interleavings of calls, answers, cancellations and time, checked against a model of the policy.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Call,
    Answer(usize, Outcome),
    Cancel(usize),
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        1 => Just(Outcome::Success),
        4 => Just(FAILED),
        1 => (0..600_000_u64).prop_map(failed_for),
        1 => Just(Outcome::Inconclusive),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => prop_oneof![0..50_u64, 0..40_000_u64].prop_map(Step::Pass),
        3 => Just(Step::Call),
        3 => (any::<usize>(), outcomes()).prop_map(|(which, outcome)| Step::Answer(which, outcome)),
        1 => any::<usize>().prop_map(Step::Cancel),
    ];
    prop::collection::vec(step, 0..120)
}

/// What the policy allows, kept apart from how the circuit does it.
#[derive(Default)]
struct Model {
    /// When calls given in the present closed phase failed.
    failed_at_ms: Vec<u64>,
    /// Transitions so far: calls of an earlier number are from before.
    changes: usize,
    phase: Option<Phase>,
    quiet_until_ms: u64,
    probe_out_since_ms: Option<u64>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_interleaving_makes_a_call_that_the_policy_forbids(steps in steps()) {
        let settings = CircuitSettings::default();
        let mut circuit = new();
        let mut model = Model { phase: Some(Phase::Closed), ..Model::default() };
        let mut in_flight: Vec<(Permit, usize, bool)> = Vec::new();
        let mut now_ms = 1_000_000;
        for step in steps {
            let phase_before = model.phase;
            match step {
                Step::Pass(ms) => now_ms += ms,
                Step::Call => {
                    let given = circuit.ask(now_ms);
                    follow(&mut model, &mut circuit, settings)?;
                    match given {
                        Err(refused) => {
                            prop_assert!(refused.retry_after_ms >= 1);
                            prop_assert_ne!(model.phase, Some(Phase::Closed), "refused while closed");
                        }
                        Ok(permit) => {
                            prop_assert!(now_ms >= model.quiet_until_ms, "called during the pause");
                            let probe = model.phase == Some(Phase::HalfOpen);
                            if probe {
                                let other = model.probe_out_since_ms;
                                let lost = other.is_none_or(|at| now_ms - at >= settings.probe_timeout_ms);
                                prop_assert!(lost, "two probes at once");
                                model.probe_out_since_ms = Some(now_ms);
                            }
                            in_flight.push((permit, model.changes, probe));
                        }
                    }
                }
                Step::Answer(which, outcome) if !in_flight.is_empty() => {
                    let (permit, changes, probe) = in_flight.swap_remove(which % in_flight.len());
                    circuit.report(permit, outcome, now_ms);
                    let counted = changes == model.changes && !probe && phase_before == Some(Phase::Closed);
                    if counted && matches!(outcome, Outcome::Failure { .. }) {
                        model.failed_at_ms.push(now_ms);
                    }
                    let in_window = model.failed_at_ms.iter().filter(|at| now_ms - **at <= settings.window_ms);
                    let must_open = counted && in_window.count() >= 5;
                    follow(&mut model, &mut circuit, settings)?;
                    if phase_before == Some(Phase::Closed) {
                        prop_assert_eq!(model.phase == Some(Phase::Open), must_open);
                    }
                    if probe && changes == model.changes {
                        model.probe_out_since_ms = None;
                    }
                }
                Step::Cancel(which) if !in_flight.is_empty() => {
                    drop(in_flight.swap_remove(which % in_flight.len()));
                }
                Step::Answer(..) | Step::Cancel(_) => {}
            }
        }
        // Whatever happened: it is not wedged.
        let later_ms = now_ms + settings.max_pause_ms + settings.probe_timeout_ms + settings.pause_ms;
        prop_assert!(circuit.ask(later_ms).is_ok());
    }
}

fn follow(model: &mut Model, circuit: &mut Circuit, settings: CircuitSettings) -> Result<(), TestCaseError> {
    for transition in circuit.take_transitions() {
        prop_assert_eq!(Some(transition.from), model.phase, "a transition is missing");
        model.phase = Some(transition.to);
        model.changes += 1;
        model.failed_at_ms.clear();
        model.probe_out_since_ms = None;
        if transition.to == Phase::Open {
            let allowed = settings.pause_ms..=settings.max_pause_ms;
            prop_assert!(allowed.contains(&transition.pause_ms));
            model.quiet_until_ms = transition.at_ms + transition.pause_ms;
        }
    }
    Ok(())
}

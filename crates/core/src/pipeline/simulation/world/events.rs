//! What can happen to the simulated world between two steps of a request.

use std::cell::Cell;

use super::super::fixtures::{KIDS, Proven};
use super::super::gate::Gate;
use super::super::isolate::Isolate;
use super::{BUDGET_MS, LIMITS, Mode, ProofHeaders, Rc, World, recorded_pair};
use crate::admission::{Admission as Object, Changed, RevokeRequest};
use crate::budget::Budget;

impl World {
    pub fn change_registry(&self) {
        self.0.registry.set(self.any_mode());
        self.0.registry_since_ms.set(self.now_ms());
        self.0.outages.borrow_mut().clear();
    }

    pub fn change_d1(&self) {
        self.0.d1.set(self.any_mode());
        self.0.d1_since_ms.set(self.now_ms());
    }

    fn any_mode(&self) -> Mode {
        [Mode::Well, Mode::Failing, Mode::Slow][self.roll(3) as usize]
    }

    pub fn end_session(&self) {
        let at = self.any_agent();
        self.agent(at).token_valid = false;
        self.session_event(at);
    }

    pub fn refresh_token(&self) {
        let at = self.any_agent();
        let token = self.agent(at).token;
        self.session_event_of(at, token);
        let mut agent = self.agent(at);
        agent.token += 1;
        agent.token_valid = true;
        agent.session += 1;
        agent.kept_at_ms = None;
    }

    fn session_event(&self, at: usize) {
        let token = self.agent(at).token;
        self.session_event_of(at, token);
    }

    /// The event takes its time; a redelivery comes later.
    fn session_event_of(&self, at: usize, token: u32) {
        for _ in 0..=self.roll(2) {
            let (world, delay_ms) = (self.clone(), self.roll(900));
            self.spawn(async move {
                world.sleep(delay_ms).await;
                let fresh = world.fresh();
                let event = world.event();
                let mut agent = world.agent(at);
                agent.object.replace_generation(fresh, Changed::Session).unwrap();
                agent.ended_at.entry(token).or_insert(event);
                agent.session += 1;
                agent.kept_at_ms = None;
            });
        }
    }

    /// The agent is paired anew with whom it writes to.
    pub fn change_pairs(&self) {
        let (at, fresh) = (self.any_agent(), self.fresh());
        let peer = self.peer_of(at);
        let mut agent = self.agent(at);
        agent.pairs = agent.pairs.wrapping_add(1);
        let (did, pair) = (agent.did.clone(), recorded_pair(agent.pairs));
        agent
            .object
            .pair_read(0, &did, &peer, Some(&pair), fresh)
            .unwrap();
    }

    pub fn revoke(&self) {
        let at = self.any_agent();
        {
            let mut agent = self.agent(at);
            (agent.listed, agent.token_valid) = (true, false);
        }
        let (world, delay_ms) = (self.clone(), self.roll(900));
        self.spawn(async move {
            world.sleep(delay_ms).await;
            let (fresh, event) = (world.fresh(), world.event());
            let mut agent = world.agent(at);
            let request = RevokeRequest {
                agent: agent.did.clone(),
                revoke_agent: true,
                tokens: vec![],
                unconfirmed: false,
                reissued: None,
            };
            agent.object.revoke(&request, fresh).unwrap();
            agent.revoked_at.get_or_insert(event);
        });
    }

    /// The registry has a new key, and signs an agent's next AIT with it.
    pub fn rotate_and_reissue(&self) {
        let version = (self.0.key_version.get() + 1).min(KIDS - 1);
        self.0.key_version.set(version);
        let at = self.any_agent();
        self.agent(at).kid = version;
    }

    /// What the isolate knew is gone; what was in flight goes on elsewhere, or is of no use to anybody.
    pub fn evict_isolate(&self) {
        let at = self.roll(2) as usize;
        let name = self.event() as u32 + 2;
        self.0.isolates.borrow_mut()[at] = Rc::new(Isolate::new(name));
    }

    pub fn evict_object(&self) {
        let (at, fresh, now_ms) = (self.any_agent(), self.fresh(), self.now_ms());
        let mut agent = self.agent(at);
        agent.object = Object::wake(agent.storage.clone(), LIMITS, now_ms, fresh).unwrap();
    }

    pub fn fresh_request(&self) -> Rc<Proven> {
        let at = self.any_agent();
        let kid = self.agent(at).kid;
        let token = self.agent(at).token;
        let number = self.event();
        let timestamp_s = (self.now_ms() / 1000 + self.roll(500)).saturating_sub(250);
        let proof = ProofHeaders::parse(
            Some(&timestamp_s.to_string()),
            Some(&format!("nonce-{number}")),
            Some(&"A".repeat(43)),
            Some(&"A".repeat(86)),
        );
        let request = Rc::new(Proven {
            agent: at,
            authorization: self.0.fixtures.0.aits[at][kid].0.clone(),
            proof: proof.unwrap(),
            access_token: format!("token-{token}"),
            token,
            kid,
            number,
        });
        self.0.requests.borrow_mut().push(request.clone());
        request
    }

    /// One that was sent before.
    pub fn captured(&self) -> Option<Rc<Proven>> {
        let requests = self.0.requests.borrow();
        let back = self.roll(5) as usize + 1;
        requests.len().checked_sub(back).map(|at| requests[at].clone())
    }

    pub fn gate(&self, request: &Proven) -> Gate {
        let isolate = self.0.isolates.borrow()[self.roll(2) as usize].clone();
        Gate {
            world: self.clone(),
            isolate,
            agent: request.agent,
            token: request.token,
            kid: request.kid,
            budget: Budget::new(self.now_ms(), BUDGET_MS),
            admitted_at: Cell::new(None),
        }
    }
}

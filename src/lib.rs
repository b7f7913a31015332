//! The Clawdentity proxy: a Cloudflare Worker that decides which agents get in
//! and carries their messages.
//!
//! This file holds the entry points and nothing else. What a request goes
//! through is in `core::pipeline`; what each room is for is in ARCHITECTURE.md.
//! `config`, `error` and `log` know nothing of Workers and are
//! usable natively.

use clawdentity_core as core;
use clawdentity_protocol as protocol;

pub mod config;
pub mod error;
pub mod log;

#[cfg(target_arch = "wasm32")]
mod app;
#[cfg(target_arch = "wasm32")]
mod clock;
#[cfg(target_arch = "wasm32")]
mod consumers;
#[cfg(target_arch = "wasm32")]
mod http;
#[cfg(target_arch = "wasm32")]
mod objects;
#[cfg(target_arch = "wasm32")]
mod registry;
#[cfg(target_arch = "wasm32")]
mod relay;
#[cfg(target_arch = "wasm32")]
mod revocation;
#[cfg(target_arch = "wasm32")]
mod routes;
#[cfg(target_arch = "wasm32")]
mod trust;

#[cfg(target_arch = "wasm32")]
mod entry {
    use wasm_bindgen::prelude::wasm_bindgen;
    use worker::{Context, Env, Request, Response, ScheduleContext, ScheduledEvent, event, worker_sys};

    #[event(fetch)]
    async fn fetch(request: Request, env: Env, ctx: Context) -> worker::Result<Response> {
        Ok(crate::routes::serve(request, env, ctx).await)
    }

    /// By hand, as `event(queue)` hands out no raw message: a body that is no string must not throw.
    #[wasm_bindgen]
    pub async fn queue(batch: worker_sys::MessageBatch, env: Env, ctx: worker_sys::Context) {
        crate::consumers::serve(batch, env, Context::new(ctx)).await;
    }

    #[event(scheduled)]
    async fn scheduled(_event: ScheduledEvent, env: Env, _ctx: ScheduleContext) {
        crate::revocation::scheduled(env).await;
    }
}

//! The Clawdentity proxy: a Cloudflare Worker that decides which agents get in and carries their messages.
//!
//! This file holds the entry points only. What a request goes through is in `core::pipeline`, and ARCHITECTURE.md says what
//! each module is for. `archive`, `config`, `error` and `log` know nothing of Workers and can be used natively.

use clawdentity_core as core;
use clawdentity_protocol as protocol;

pub mod archive;
pub mod config;
pub mod error;
pub mod log;

#[cfg(target_arch = "wasm32")]
mod app;
#[cfg(target_arch = "wasm32")]
mod canary;
#[cfg(target_arch = "wasm32")]
mod clock;
#[cfg(target_arch = "wasm32")]
mod consumers;
#[cfg(target_arch = "wasm32")]
mod feed;
#[cfg(target_arch = "wasm32")]
mod http;
#[cfg(target_arch = "wasm32")]
mod metrics;
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

    /// Runs once in each instance of the module. `worker` sets a hook as well, which has the instance replaced. Each of
    /// the two calls the hook that it finds, so both run, whichever is set first.
    #[event(start)]
    fn start() {
        let hook_before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            console_error_panic_hook::hook(info);
            hook_before(info);
        }));
    }

    #[event(fetch)]
    async fn fetch(request: Request, env: Env, ctx: Context) -> worker::Result<Response> {
        Ok(crate::routes::serve(request, env, ctx).await)
    }

    /// By hand, as `event(queue)` hands out no raw message: a body that is not a string must not throw.
    #[wasm_bindgen]
    pub async fn queue(batch: worker_sys::MessageBatch, env: Env, ctx: worker_sys::Context) {
        crate::consumers::serve(batch, env, Context::new(ctx)).await;
    }

    #[event(scheduled)]
    async fn scheduled(_event: ScheduledEvent, env: Env, ctx: ScheduleContext) {
        // The kill switch measures itself beside everything else, for it waits.
        let measured = env.clone();
        ctx.wait_until(async {
            if let Ok(app) = crate::app::App::new(measured, None) {
                crate::canary::run_if_due(&app).await;
            }
        });
        crate::revocation::scheduled(env).await;
    }
}

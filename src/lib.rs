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
mod random;
#[cfg(target_arch = "wasm32")]
mod registry;
#[cfg(target_arch = "wasm32")]
mod relay;
#[cfg(target_arch = "wasm32")]
mod revocation;
#[cfg(target_arch = "wasm32")]
mod routes;
#[cfg(target_arch = "wasm32")]
mod sql;
#[cfg(target_arch = "wasm32")]
mod trust;

#[cfg(target_arch = "wasm32")]
mod entry {
    use wasm_bindgen::JsValue;
    use wasm_bindgen::prelude::wasm_bindgen;
    use worker::{Context, Env, ScheduleContext, ScheduledEvent, event, worker_sys};

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

    /// By hand, as `event(fetch)` asks the request for each header by itself. `lines` is a text: the request line and the
    /// headers (`glue/http.js`). It is taken as a value, because a `String` would be copied into the memory of an instance
    /// that a panic has ended, before the new one is made.
    #[wasm_bindgen]
    pub async fn fetch(
        lines: JsValue,
        request: web_sys::Request,
        env: Env,
        ctx: worker_sys::Context,
    ) -> JsValue {
        crate::routes::serve(
            lines.as_string().unwrap_or_default(),
            request,
            env,
            Context::new(ctx),
        )
        .await
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

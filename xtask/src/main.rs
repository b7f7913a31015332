//! The wasm-bindgen step of the build, as a program of this workspace.
//!
//! It uses the wasm-bindgen command line as a library. Cargo builds it from crates.io and `Cargo.lock` pins it, so
//! nothing is downloaded from anywhere else, and its version cannot differ from that of the `wasm-bindgen` crate.
//! Bundling and optimising is done by `scripts/build.mjs`.

use std::path::PathBuf;
use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(input), Some(out_dir), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: xtask <in.wasm> <out-dir>");
        return ExitCode::from(2);
    };

    let mut bindgen = Bindgen::new();
    bindgen
        .input_path(input)
        .out_name("index")
        .typescript(false)
        // After a panic the next call starts a new instance instead of entering a broken one.
        .reset_state_function(true)
        .force_enable_abort_handler(true)
        .remove_producers_section(true);

    // The module target imports the wasm as a module, which is how workerd hands it over.
    match bindgen.module(true).and_then(|b| b.generate(out_dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wasm-bindgen: {error:?}");
            ExitCode::FAILURE
        }
    }
}

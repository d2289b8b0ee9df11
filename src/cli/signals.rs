//! SIGINT and SIGTERM.

use std::process;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::{cancel::Cancel, runner::Exit};

/// On the first SIGINT or SIGTERM sets the flag and calls `tell`; at the second leaves at once.
pub(super) fn stop_on_signals(stop: &Cancel, tell: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        stop.cancel();
        tell();
        next().await;
        process::exit(Exit::Interrupted.code().into());
    });
    Ok(())
}

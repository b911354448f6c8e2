//! The frame of a program's `main`: runtime, signals, exit codes.
//!
//! | Exit code | Meaning |
//! |---|---|
//! | 0 | The program ended by itself, or drained after SIGTERM or SIGINT |
//! | 1 | It could not start, or failed while it ran, or a second signal cut the drain short |
//! | 64 | Arguments or configuration are wrong (`EX_USAGE`) |

use std::io::Write;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Why a program ended otherwise than by draining.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong: nothing was started, and starting again will not help.
    #[error("configuration: {0:#}")]
    Configuration(anyhow::Error),
    /// The program could not start, or could not go on.
    #[error("{0:#}")]
    Start(anyhow::Error),
}

impl Failure {
    /// Blames the configuration.
    pub fn configuration(cause: impl Into<anyhow::Error>) -> Self {
        Self::Configuration(cause.into())
    }

    /// Blames the start, or what came after it.
    pub fn start(cause: impl Into<anyhow::Error>) -> Self {
        Self::Start(cause.into())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_) => 64,
            Self::Start(_) => 1,
        }
    }
}

/// The program's arguments.
///
/// # Errors
/// The code to leave `main` with, after having printed what was asked for (0) or what is wrong (64).
pub fn arguments<A: clap::Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|answer| {
        // With the output closed there is nobody to tell.
        let _ = answer.print();
        if answer.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
    })
}

/// Runs `program` on a runtime with a thread for each processor and gives the code to leave `main` with. SIGTERM or
/// SIGINT cancels the token that `program` is called with; it then drains and returns. A second signal ends the process
/// at once.
pub fn run<P, F>(program: P) -> ExitCode
where
    P: FnOnce(CancellationToken) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return report(&Failure::start(cause)),
    };
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = Signals::install().map_err(Failure::start)?;
        tokio::spawn(signals.stop(stop.clone()));
        program(stop).await
    });
    // What still runs is nothing the program waits for, such as a name resolution.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Prints `failure` to standard error, where it is seen also when logs have not started, and gives its exit code.
pub fn report(failure: &Failure) -> ExitCode {
    say(&format!("error: {failure}"));
    ExitCode::from(failure.exit_code())
}

fn say(line: &str) {
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn stop(mut self, stop: CancellationToken) {
        let name = self.next().await;
        tracing::info!(signal = name, "draining");
        stop.cancel();
        let name = self.next().await;
        say(&format!("{name} while draining: ending at once"));
        std::process::exit(1);
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_configuration_from_start() {
        assert_eq!(run(async |_| Ok(())), ExitCode::SUCCESS);
        assert_eq!(run(async |_| Err(Failure::start(anyhow::anyhow!("port taken")))), ExitCode::from(1));
        assert_eq!(run(async |_| Err(Failure::configuration(anyhow::anyhow!("no key")))), ExitCode::from(64));
    }

    #[test]
    fn a_failure_tells_its_causes() {
        let cause = anyhow::anyhow!("permission denied").context("key.pem");
        assert_eq!(Failure::configuration(cause).to_string(), "configuration: key.pem: permission denied");
    }
}

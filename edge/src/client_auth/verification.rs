//! How many clients' chains are verified at one time.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use rustls_pki_types::UnixTime;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::{ClientVerifier, Objection};

/// Places for verifications, off the reactor: as many as there are processors, for more at a time would finish none
/// sooner. Who finds none waits in turn. A flood of chains then takes few of the threads for blocking work, so that
/// revocation lists are still read and the state still written.
#[derive(Clone, Debug)]
pub struct Verifications {
    places: Arc<Semaphore>,
}

impl Default for Verifications {
    fn default() -> Self {
        Self::with_places(available_parallelism().map_or(1, NonZeroUsize::get))
    }
}

impl Verifications {
    fn with_places(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)) }
    }

    /// Has `verifier` verify the chain, whatever it costs. By `deadline` there is an answer.
    ///
    /// # Errors
    /// Those of [`ClientVerifier::verify`], and [`Objection::NoVerdict`].
    pub async fn verify(
        &self,
        verifier: Arc<ClientVerifier>,
        chain: Vec<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), Objection> {
        self.run(move || verifier.verify(&chain, UnixTime::now()), deadline).await
    }

    async fn run(
        &self,
        verification: impl FnOnce() -> Result<(), Objection> + Send + 'static,
        deadline: Instant,
    ) -> Result<(), Objection> {
        let Ok(Ok(place)) = timeout_at(deadline, self.places.clone().acquire_owned()).await else {
            return Err(Objection::NoVerdict);
        };
        // A verification that nobody waits for any longer still takes a processor, and so keeps its place.
        let running = spawn_blocking(move || {
            let verdict = verification();
            drop(place);
            verdict
        });
        match timeout_at(deadline, running).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(Objection::NoVerdict),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[tokio::test]
    async fn no_more_run_at_a_time_than_there_are_places() {
        let verifications = Verifications::with_places(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let verdicts: Vec<_> = (0..20)
            .map(|_| {
                let (verifications, running, most) = (verifications.clone(), running.clone(), most.clone());
                let verification = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(5));
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                };
                tokio::spawn(async move { verifications.run(verification, late()).await })
            })
            .collect();
        for verdict in verdicts {
            assert_eq!(verdict.await.unwrap(), Ok(()));
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_verification_past_its_deadline_keeps_its_place_until_it_ends() {
        let verifications = Verifications::with_places(1);
        let (end, ended) = mpsc::channel::<()>();
        let long = move || {
            let _ = ended.recv();
            Ok(())
        };
        assert_eq!(verifications.run(long, soon()).await, Err(Objection::NoVerdict));
        assert_eq!(verifications.run(|| Ok(()), soon()).await, Err(Objection::NoVerdict));
        // Other blocking work does not wait behind it.
        assert_eq!(spawn_blocking(|| 7).await.unwrap(), 7);
        end.send(()).unwrap();
        assert_eq!(verifications.run(|| Ok(()), late()).await, Ok(()));
    }

    #[tokio::test]
    async fn a_verification_that_breaks_off_lets_nobody_in_and_gives_its_place_back() {
        let verifications = Verifications::with_places(1);
        let broken = || std::panic::resume_unwind(Box::new("broken"));
        assert_eq!(verifications.run(broken, late()).await, Err(Objection::NoVerdict));
        assert_eq!(verifications.run(|| Err(Objection::NoRule), late()).await, Err(Objection::NoRule));
    }
}

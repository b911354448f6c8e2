//! The sessions with one token: as many as the configuration says, opened when they are first needed, and opened again
//! when they were lost.

mod state;

use std::path::Path;
#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use prometheus_client::metrics::gauge::Gauge;

use super::config::TokenConfig;
use super::fault::TokenFault;
use super::metrics::MetricsOfToken;
use super::module::{Access, Entered, Module, ModuleError, OpenSession};
use crate::custody::secret::Secret;
pub(super) use state::Age;
use state::{Pooled, Standing, State};

/// How long a token that could not be reached is left alone.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The sessions with one token.
#[derive(Debug)]
pub(super) struct Pool {
    module: Arc<Module>,
    config: TokenConfig,
    pin: Secret,
    /// Held by whoever opens a session.
    opening: parking_lot::Mutex<()>,
    state: Mutex<State>,
    /// A session was given back, or may be opened.
    freed: Condvar,
    pub(super) metrics: MetricsOfToken,
    #[cfg(test)]
    pub(super) logins: AtomicUsize,
}

impl Pool {
    /// Loads the module. No session is opened yet.
    pub(super) fn new(
        config: &TokenConfig,
        pin: Secret,
        directory: &Path,
        metrics: MetricsOfToken,
    ) -> Result<Self, ModuleError> {
        Ok(Self {
            module: Module::load(&config.module.under(directory))?,
            config: config.clone(),
            pin,
            opening: parking_lot::Mutex::default(),
            state: Mutex::default(),
            freed: Condvar::new(),
            metrics,
            #[cfg(test)]
            logins: AtomicUsize::new(0),
        })
    }

    /// Does `work` in a session. Where the session turns out to be lost, another is opened and the work done once more;
    /// where none can be opened, the module is initialised anew if that hurts nobody.
    pub(super) fn with_session<T>(
        &self,
        work: impl Fn(&Session, Age) -> Result<T, TokenFault>,
    ) -> Result<T, TokenFault> {
        let mut done = self.attempt(&work);
        if matches!(done, Err(TokenFault::TokenAway(_))) && self.restart_module() {
            done = self.attempt(&work);
        }
        if let Err(fault @ TokenFault::SessionLost(_)) = &done {
            // A fresh session was no better than the old one.
            self.leave_alone(&TokenFault::TokenAway(fault.to_string()));
        }
        if let Err(fault) = &done {
            self.metrics.fault(fault);
        }
        done
    }

    /// Whether there is reason to try it, though nobody needs it at this moment.
    pub(super) fn wants_probe(&self) -> bool {
        match &self.state().standing {
            Standing::Untried => true,
            Standing::Away { until, .. } => Instant::now() >= *until,
            Standing::Good | Standing::Refused(_) => false,
        }
    }

    /// Opens a session that can also write, outside the pool.
    pub(super) fn with_writing_session<T>(
        &self,
        work: impl FnOnce(&Session) -> Result<T, TokenFault>,
    ) -> Result<T, TokenFault> {
        let entered = self.module.enter();
        let session = self.open(&entered, Access::Write)?;
        let done = work(&session);
        session.close();
        done
    }

    /// Whether the module was initialised anew, since a session could not be opened.
    fn restart_module(&self) -> bool {
        if !std::mem::take(&mut self.state().is_stuck) || !self.module.restart() {
            return false;
        }
        if let Standing::Away { until, .. } = &mut self.state().standing {
            *until = Instant::now();
        }
        true
    }

    fn attempt<T>(&self, work: &impl Fn(&Session, Age) -> Result<T, TokenFault>) -> Result<T, TokenFault> {
        let entered = self.module.enter();
        let lent = self.take(&entered)?;
        match self.work_in(&lent, work) {
            Err(TokenFault::SessionLost(_)) => self.attempt_afresh(lent, &entered, work),
            done => {
                self.give_back(lent);
                done
            }
        }
    }

    /// Does in a fresh session, with handles found in it, what failed in one that seems lost. What fails there too, though
    /// that session is good, has failed for its own sake: a token's word for it does not tell, and one key that cannot be
    /// used takes its token from no other.
    fn attempt_afresh<T>(
        &self,
        failed: Lent<'_>,
        entered: &Entered<'_>,
        work: &impl Fn(&Session, Age) -> Result<T, TokenFault>,
    ) -> Result<T, TokenFault> {
        let Lent { pooled, place } = failed;
        let before = pooled.age.generation;
        // Before another is opened: a token may have no more than these.
        pooled.session.close();
        let opened = self.open(entered, Access::Read).inspect_err(|_| self.give_up(before));
        let age = Age { epoch: entered.epoch(), generation: self.state().next_generation() };
        let lent = Lent { pooled: Pooled { session: opened?, age }, place };
        match self.work_in(&lent, work) {
            Err(TokenFault::SessionLost(cause)) if is_good(&lent.pooled.session) => {
                self.settle(lent, None);
                Err(TokenFault::KeyFails(cause))
            }
            Err(lost @ TokenFault::SessionLost(_)) => {
                lent.pooled.session.close();
                self.give_up(before);
                Err(lost)
            }
            done => {
                self.settle(lent, Some(before));
                done
            }
        }
    }

    fn work_in<T>(
        &self,
        lent: &Lent<'_>,
        work: &impl Fn(&Session, Age) -> Result<T, TokenFault>,
    ) -> Result<T, TokenFault> {
        let _in_use = InUse::count(&self.metrics.in_use);
        work(&lent.pooled.session, lent.pooled.age)
    }

    /// Takes a session that is idle, opens one where there may be more, or waits.
    fn take(&self, entered: &Entered<'_>) -> Result<Lent<'_>, TokenFault> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(fault) = state.standing.fault() {
                return Err(fault);
            }
            state.close_outdated();
            if let Some(pooled) = state.idle.pop() {
                return Ok(Lent { pooled, place: Place::take(self, &mut state) });
            }
            if state.lent < self.config.sessions as usize {
                let place = Place::take(self, &mut state);
                drop(state);
                let session = self.open(entered, Access::Read)?;
                let age = Age { epoch: entered.epoch(), generation: self.state().generation };
                return Ok(Lent { pooled: Pooled { session, age }, place });
            }
            let left = self.config.session_wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(TokenFault::SessionsBusy);
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            self.metrics.waited(begun.elapsed());
        }
    }

    /// Opens a session, one at a time: whoever waits for that learns what it came to before trying too, so that a PIN that
    /// is refused was tried once.
    fn open(&self, entered: &Entered<'_>, access: Access) -> Result<OpenSession, TokenFault> {
        let alone = self.opening.try_lock_for(self.config.session_wait);
        let _alone = alone.ok_or(TokenFault::SessionsBusy)?;
        if let Some(fault) = self.state().standing.fault() {
            return Err(fault);
        }
        match self.log_in(entered, access) {
            Ok(session) => {
                self.metrics.opened.inc();
                self.came_back();
                Ok(session)
            }
            Err(fault) => {
                self.state().is_stuck = true;
                self.leave_alone(&fault);
                Err(fault)
            }
        }
    }

    fn log_in(&self, entered: &Entered<'_>, access: Access) -> Result<OpenSession, TokenFault> {
        let slot = self.slot(entered)?;
        let session = entered.open(slot, access).map_err(|error| TokenFault::of_opening(&error))?;
        let pin = RawAuthPin::from(Box::new(self.pin.expose().to_vec()));
        #[cfg(test)]
        self.logins.fetch_add(1, Ordering::Relaxed);
        match session.login_with_raw(UserType::User, &pin) {
            Ok(()) => {
                // The login is one for all sessions of the process: there was none, and handles of before mean nothing.
                self.state().begin_generation();
                Ok(session)
            }
            Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => {
                session.close();
                Err(TokenFault::of_opening(&error))
            }
        }
    }

    fn slot(&self, entered: &Entered<'_>) -> Result<Slot, TokenFault> {
        let context = entered.context();
        let slots = context.get_slots_with_token().map_err(|error| TokenFault::of_opening(&error))?;
        let is_meant = |slot: &Slot| {
            let Ok(token) = context.get_token_info(*slot) else { return false };
            token.token_initialized()
                && self.config.slot.is_none_or(|id| id == slot.id())
                && self.config.label.as_deref().is_none_or(|label| label == token.label())
                && self.config.serial.as_deref().is_none_or(|serial| serial == token.serial_number())
        };
        let mut meant = slots.into_iter().filter(is_meant);
        let first = meant.next().ok_or_else(|| TokenFault::TokenAway("no such token in any slot".to_owned()))?;
        match meant.next() {
            None => Ok(first),
            Some(_) => Err(TokenFault::TokenAway("several tokens fit; tell them apart by `serial`".to_owned())),
        }
    }

    fn give_back(&self, lent: Lent<'_>) {
        let mut state = self.state();
        state.idle.push(lent.pooled);
        state.close_outdated();
        drop(state);
        drop(lent.place);
    }

    /// Gives back a session of an age of its own. It begins the generation after `lost`, if that is what it shows to be
    /// lost, and otherwise becomes one like the others.
    fn settle(&self, mut lent: Lent<'_>, lost: Option<u64>) {
        let mut state = self.state();
        match lost {
            Some(lost) if lost == state.generation => state.generation = lent.pooled.age.generation,
            Some(_) | None => lent.pooled.age.generation = state.generation,
        }
        drop(state);
        self.give_back(lent);
    }

    /// With one session that is lost, all of its generation are given up: they share login and fate.
    fn give_up(&self, lost: u64) {
        let mut state = self.state();
        if state.generation == lost {
            state.begin_generation();
        }
        state.close_outdated();
        drop(state);
        self.freed.notify_all();
    }

    /// Tells of the change, and has nobody try for a while.
    fn leave_alone(&self, fault: &TokenFault) {
        let mut state = self.state();
        let was_good = !matches!(state.standing, Standing::Away { .. } | Standing::Refused(_));
        state.standing = match fault {
            TokenFault::PinRefused(_) => Standing::Refused(fault.clone()),
            TokenFault::SessionsBusy
            | TokenFault::SessionLost(_)
            | TokenFault::TokenAway(_)
            | TokenFault::KeyMissing
            | TokenFault::KeyAmbiguous
            | TokenFault::KeyFails(_)
            | TokenFault::OperationFailed(_) => {
                Standing::Away { fault: fault.clone(), until: Instant::now() + REOPEN_PAUSE }
            }
        };
        drop(state);
        self.metrics.up.set(0);
        if was_good {
            tracing::warn!(token = self.config.name, reason = fault.reason(), cause = %fault, "token not available");
        }
    }

    fn came_back(&self) {
        let before = std::mem::replace(&mut self.state().standing, Standing::Good);
        self.metrics.up.set(1);
        match before {
            Standing::Good => {}
            Standing::Untried => tracing::info!(token = self.config.name, "token ready"),
            Standing::Away { .. } | Standing::Refused(_) => tracing::info!(token = self.config.name, "token back"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    /// Sessions outlive nobody: a module is initialised anew when none is open.
    fn drop(&mut self) {
        self.state().idle.drain(..).for_each(|pooled| pooled.session.close());
    }
}

/// A session that is lent.
struct Lent<'p> {
    pooled: Pooled,
    place: Place<'p>,
}

/// One of the sessions that may be lent at one time, until it is dropped: whatever comes between, a panic too.
struct Place<'p>(&'p Pool);

impl<'p> Place<'p> {
    fn take(pool: &'p Pool, state: &mut State) -> Self {
        state.lent += 1;
        Self(pool)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().lent -= 1;
        self.0.freed.notify_one();
    }
}

/// An operation in a session.
struct InUse<'m>(&'m Gauge);

impl<'m> InUse<'m> {
    fn count(gauge: &'m Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whether the module knows a session and its login.
fn is_good(session: &Session) -> bool {
    let state = session.get_session_info().map(|info| info.session_state());
    matches!(state, Ok(SessionState::RoUser | SessionState::RwUser))
}

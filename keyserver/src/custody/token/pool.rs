//! The sessions with one token: as many as the configuration says, opened when they are first needed, and opened again
//! when they were lost.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;

use super::config::TokenConfig;
use super::fault::TokenFault;
use super::metrics::MetricsOfToken;
use super::module::{Entered, Module, ModuleError};
use crate::custody::secret::Secret;

/// How long a token that could not be reached is left alone.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The sessions with one token.
#[derive(Debug)]
pub(super) struct Pool {
    module: Arc<Module>,
    config: TokenConfig,
    pin: Secret,
    state: Mutex<State>,
    /// A session was given back, or may be opened.
    freed: Condvar,
    pub(super) metrics: MetricsOfToken,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Lent>,
    /// Sessions that are lent or being opened.
    lent: usize,
    /// Counts losses: sessions of an earlier generation are not lent again.
    generation: u64,
    standing: Standing,
    /// Whether a session could not be opened since the module was last thought of being initialised anew.
    is_stuck: bool,
}

/// Whether it is worth trying.
#[derive(Clone, Debug, Default)]
enum Standing {
    /// Nobody has tried yet.
    #[default]
    Untried,
    Good,
    Away {
        fault: TokenFault,
        until: Instant,
    },
    /// For good.
    Refused(TokenFault),
}

/// A session that is lent.
#[derive(Debug)]
struct Lent {
    session: Session,
    /// Handles found in one session are good in all of the same age.
    age: Age,
}

/// Which initialisation of the module, and which generation of sessions, a handle belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Age {
    epoch: u64,
    generation: u64,
}

impl Pool {
    /// Loads the module. No session is opened yet.
    pub(super) fn new(
        config: &TokenConfig,
        pin: Secret,
        directory: &Path,
        metrics: MetricsOfToken,
    ) -> Result<Self, ModuleError> {
        let module = Module::load(&config.module.under(directory))?;
        let (state, freed) = (Mutex::default(), Condvar::new());
        Ok(Self { module, config: config.clone(), pin, state, freed, metrics })
    }

    /// Does `work` in a session. Where the session turns out to be lost, another is opened and the work done once more;
    /// where none can be opened, the module is initialised anew if that hurts nobody.
    pub(super) fn with_session<T>(
        &self,
        work: impl Fn(&Session, Age) -> Result<T, TokenFault>,
    ) -> Result<T, TokenFault> {
        let mut done = self.attempt(&work);
        if matches!(done, Err(TokenFault::SessionLost(_))) {
            done = self.attempt(&work);
        }
        if matches!(done, Err(TokenFault::TokenAway(_))) && self.restart_module() {
            done = self.attempt(&work);
        }
        if let Err(fault @ TokenFault::SessionLost(_)) = &done {
            // A new session was no better than the old one.
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
        let session = self.open(&entered, true)?;
        let done = work(&session);
        // It ends with the process at the latest.
        let _ = session.close();
        entered.session_closed();
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
        self.metrics.in_use.inc();
        let done = work(&lent.session, lent.age);
        self.metrics.in_use.dec();
        match &done {
            Err(TokenFault::SessionLost(_)) => self.lose(lent, &entered),
            Ok(_) | Err(_) => self.give_back(lent, &entered),
        }
        done
    }

    /// Takes a session that is idle, opens one where there may be more, or waits.
    fn take(&self, entered: &Entered<'_>) -> Result<Lent, TokenFault> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            match &state.standing {
                Standing::Refused(fault) => return Err(fault.clone()),
                Standing::Away { fault, until } if Instant::now() < *until => return Err(fault.clone()),
                Standing::Away { .. } | Standing::Untried | Standing::Good => {}
            }
            self.drop_outdated(&mut state, entered);
            if let Some(lent) = state.idle.pop() {
                state.lent += 1;
                return Ok(lent);
            }
            if state.lent < self.config.sessions as usize {
                state.lent += 1;
                let generation = state.generation;
                drop(state);
                return self.open_or_leave_alone(entered, generation);
            }
            let left = self.config.session_wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(TokenFault::SessionsBusy);
            }
            state = self.freed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            self.metrics.waited(begun.elapsed());
        }
    }

    fn open_or_leave_alone(&self, entered: &Entered<'_>, generation: u64) -> Result<Lent, TokenFault> {
        match self.open(entered, false) {
            Ok(session) => {
                self.came_back();
                Ok(Lent { session, age: Age { epoch: entered.epoch(), generation } })
            }
            Err(fault) => {
                let mut state = self.state();
                state.lent -= 1;
                state.is_stuck = true;
                drop(state);
                self.freed.notify_one();
                self.leave_alone(&fault);
                Err(fault)
            }
        }
    }

    fn open(&self, entered: &Entered<'_>, writing: bool) -> Result<Session, TokenFault> {
        let context = entered.context();
        let slot = self.slot(entered)?;
        // Closed by hand: after the module was initialised anew, its handle may be somebody else's.
        let opened = match writing {
            true => context.open_rw_session_no_drop(slot),
            false => context.open_ro_session_no_drop(slot),
        };
        let session = opened.map_err(|error| TokenFault::of_opening(&error))?;
        let pin = RawAuthPin::from(Box::new(self.pin.expose().to_vec()));
        match session.login_with_raw(UserType::User, &pin) {
            // The login is one for all sessions of the process.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                let _ = session.close();
                return Err(TokenFault::of_opening(&error));
            }
        }
        entered.session_opened();
        self.metrics.opened.inc();
        Ok(session)
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

    fn give_back(&self, lent: Lent, entered: &Entered<'_>) {
        let mut state = self.state();
        state.lent -= 1;
        state.idle.push(lent);
        self.drop_outdated(&mut state, entered);
        self.freed.notify_one();
    }

    /// With one session, all of its generation are given up: they share login and fate.
    fn lose(&self, lent: Lent, entered: &Entered<'_>) {
        let mut state = self.state();
        state.lent -= 1;
        if state.generation == lent.age.generation {
            state.generation += 1;
        }
        state.idle.push(lent);
        self.drop_outdated(&mut state, entered);
        self.freed.notify_all();
    }

    fn drop_outdated(&self, state: &mut State, entered: &Entered<'_>) {
        let generation = state.generation;
        let is_outdated = |lent: &mut Lent| lent.age.generation != generation || lent.age.epoch != entered.epoch();
        for lent in state.idle.extract_if(.., is_outdated) {
            if lent.age.epoch == entered.epoch() {
                // A session that is lost may not close any more.
                let _ = lent.session.close();
                entered.session_closed();
            }
        }
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

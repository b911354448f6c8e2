//! PKCS#11 modules: shared libraries, each loaded and initialised once in a process, whoever uses it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::fault::text;

/// A module that is loaded.
#[derive(Debug)]
pub(super) struct Module {
    context: Pkcs11,
    /// How often it was initialised anew; handles of an epoch mean nothing in another. Whoever calls the module holds it
    /// for reading.
    epoch: RwLock<u64>,
    /// The [`OpenSession`]s of this process.
    sessions: AtomicUsize,
}

/// Modules are states of the process: initialising one twice is an error of the standard.
static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

impl Module {
    /// Loads the shared library at `path`, unless it is loaded already.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, ModuleError> {
        if cfg!(target_feature = "crt-static") {
            return Err(ModuleError::Static);
        }
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded.get(path) {
            return Ok(module.clone());
        }
        let failed = |cause: Error| ModuleError::Load { module: path.to_owned(), cause: text(&cause) };
        let context = Pkcs11::new(path).map_err(failed)?;
        initialize(&context).map_err(failed)?;
        let module = Arc::new(Self { context, epoch: RwLock::new(0), sessions: AtomicUsize::new(0) });
        loaded.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    /// The right to call it, and the epoch that this is in.
    pub(super) fn enter(self: &Arc<Self>) -> Entered<'_> {
        Entered { module: self, epoch: self.epoch.read().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Ends it behind the back of those who use it, as a module's own failure does.
    #[cfg(test)]
    pub(super) fn finalize(&self) {
        let _ = self.context.clone().finalize();
    }

    /// Starts it again behind the back of those who use it: sessions, logins and handles are gone.
    #[cfg(test)]
    pub(super) fn forget_everything(&self) {
        self.finalize();
        assert!(initialize(&self.context).is_ok());
    }

    /// Initialises the module anew, which is how many find a token that was away. Only when no session is open and nobody
    /// calls it: this ends all that the process has in the module.
    pub(super) fn restart(&self) -> bool {
        let Ok(mut epoch) = self.epoch.try_write() else { return false };
        if self.sessions.load(Ordering::Acquire) > 0 {
            return false;
        }
        // An error says that it is not initialised, which is what is wanted.
        let _ = self.context.clone().finalize();
        *epoch += 1;
        match initialize(&self.context) {
            Ok(()) => true,
            Err(cause) => {
                tracing::warn!(cause = text(&cause), "a PKCS#11 module did not start again");
                false
            }
        }
    }
}

fn initialize(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        done => done,
    }
}

/// The right to call a module.
pub(super) struct Entered<'m> {
    module: &'m Arc<Module>,
    epoch: RwLockReadGuard<'m, u64>,
}

impl Entered<'_> {
    pub(super) fn context(&self) -> &Pkcs11 {
        &self.module.context
    }

    pub(super) fn epoch(&self) -> u64 {
        *self.epoch
    }

    /// Opens a session with the token in `slot`.
    pub(super) fn open(&self, slot: Slot, access: Access) -> Result<OpenSession, Error> {
        // Closed by hand: the library tells the log of each that does not close, as those that are lost do not.
        let session = match access {
            Access::Read => self.module.context.open_ro_session_no_drop(slot)?,
            Access::Write => self.module.context.open_rw_session_no_drop(slot)?,
        };
        Ok(OpenSession { session, _counted: Counted::of(self.module) })
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Operations with keys.
    Read,
    /// Putting keys in, too.
    Write,
}

/// A session that is open. While there is one, the module is not initialised anew; one that is dropped without being closed,
/// by a panic, is left to the module and keeps nothing from that.
#[derive(Debug)]
pub(super) struct OpenSession {
    session: Session,
    _counted: Counted,
}

impl OpenSession {
    /// Closes it. One that is lost may not close any more, and need not.
    pub(super) fn close(self) {
        let Self { session, _counted } = self;
        let _ = session.close();
    }
}

impl Deref for OpenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

/// One of the sessions of a module.
#[derive(Debug)]
struct Counted(Arc<Module>);

impl Counted {
    fn of(module: &Arc<Module>) -> Self {
        module.sessions.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(module))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// This program has no loader for shared libraries.
    #[error(
        "this is a static build, which cannot load PKCS#11 modules; build the key server with `cargo build --release -p \
         keystead-keyserver`"
    )]
    Static,
    /// The library is not there, is none, or does not initialise.
    #[error("the PKCS#11 module {}: {cause}", module.display())]
    Load {
        /// The library.
        module: PathBuf,
        /// What the system or the module says.
        cause: String,
    },
}

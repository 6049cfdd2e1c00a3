//! `pam`: the password is right if the system's modules, those of the service `pgbouncer`, say so.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use nonstick::conv::Exchange;
use nonstick::items::ItemsMut;
use nonstick::{AuthnFlags, Conversation, ErrorCode, PamShared, Transaction, TransactionBuilder};

/// PgBouncer's: the modules are in `/etc/pam.d/pgbouncer`.
const SERVICE: &str = "pgbouncer";

/// A step that did not succeed, and why in the library's words.
#[derive(Debug)]
pub(super) struct PamError {
    step: &'static str,
    code: ErrorCode,
}

impl fmt::Display for PamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}() failed: {}", self.step, self.code)
    }
}

/// Whether `password` is that of `user`, who comes from `host`, and may be used now. Takes as long as the modules do.
pub(super) fn check(user: &str, password: Vec<u8>, host: &str) -> Result<(), PamError> {
    let failed = |step| move |code| PamError { step, code };
    let answers = Answers { password: OsString::from_vec(password) };
    let mut transaction =
        TransactionBuilder::new_with_service(SERVICE).username(user).build(answers).map_err(failed("pam_start"))?;
    transaction.items_mut().set_remote_host(Some(host.as_ref())).map_err(failed("pam_set_item"))?;
    transaction.authenticate(AuthnFlags::SILENT).map_err(failed("pam_authenticate"))?;
    transaction.account_management(AuthnFlags::SILENT).map_err(failed("pam_acct_mgmt"))
}

/// Answers what modules ask.
struct Answers {
    password: OsString,
}

impl Conversation for Answers {
    fn communicate(&self, messages: &[Exchange<'_>]) {
        for message in messages {
            match message {
                Exchange::MaskedPrompt(prompt) => prompt.set_answer(Ok(self.password.clone())),
                Exchange::Error(told) => told.set_answer(Ok(())),
                Exchange::Info(told) => told.set_answer(Ok(())),
                // There is nobody left to ask.
                other => other.set_error(ErrorCode::ConversationError),
            }
        }
    }
}

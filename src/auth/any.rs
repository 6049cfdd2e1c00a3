//! `any`: everybody is let in, under whatever name. The database decides who logs in to the
//! server, which is the caller's business.

use super::{AuthError, Granted};

pub(super) fn authenticate() -> Result<Granted, AuthError> {
    Ok(Granted::default())
}

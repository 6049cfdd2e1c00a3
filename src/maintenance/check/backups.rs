//! How old the newest backup of the database is.

use jiff::Timestamp;

use super::catalogue::Subject;
use super::finding::Status;
use crate::maintenance::backup::store::{Place, Store};
use crate::maintenance::exit::Failure;
use crate::maintenance::units::Size;

/// Those that did not end, or were found broken, count for nothing.
pub(super) async fn subjects(place: &Place, database: &str) -> Result<Vec<Subject>, Failure> {
    let store = Store::open(place).await?;
    let listing = store.listing().await?;
    let newest =
        listing.backups.into_iter().find(|manifest| manifest.database == database && manifest.failed.is_none());
    let subject = String::new();
    Ok(vec![match newest {
        Some(manifest) => {
            let verified =
                manifest.verified.map_or("not verified".to_owned(), |how| format!("verified: {}", how.level));
            let note = format!("{}, {}, {verified}", manifest.id, Size(manifest.bytes));
            let age = Timestamp::now().duration_since(manifest.finished_at).as_secs_f64();
            Subject { subject, value: Some(age.max(0.0)), note, at_least: Status::Ok }
        }
        None => {
            let note = format!("there is no backup of {database} in {store}");
            Subject { subject, value: None, note, at_least: Status::Critical }
        }
    }])
}

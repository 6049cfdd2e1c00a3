//! What S3 and the way to it say, in a line.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use crate::maintenance::exit::Failure;

/// A storage that does not answer is unreachable; one that refuses, failed.
pub(super) fn failure(doing: &str, e: &object_store::Error) -> Failure {
    let mut source: Option<&(dyn Error + 'static)> = Some(e);
    let mut causes = Vec::new();
    while let Some(cause) = source {
        if let Some(http) = cause.downcast_ref::<HttpError>() {
            let why = http.source().map_or_else(|| http.to_string(), deepest);
            let message = format!("{doing}: {why}");
            return match http.kind() {
                HttpErrorKind::Decode | HttpErrorKind::Unknown => Failure::failed(message),
                _ => Failure::unreachable(message),
            };
        }
        causes.push(cause.to_string());
        source = cause.source();
    }
    let text = causes.join("\n");
    let (code, message) = (element(&text, "Code"), element(&text, "Message"));
    match (code, message) {
        (Some(code), Some(message)) => Failure::failed(format!("{doing}: {message} ({code})")),
        (Some(code), None) => Failure::failed(format!("{doing}: {code}")),
        _ if text.contains("169.254.169.254") => no_credentials(doing),
        // The last is the most to the point.
        _ => Failure::failed(format!("{doing}: {}", causes.last().map_or("", String::as_str))),
    }
}

fn no_credentials(doing: &str) -> Failure {
    Failure::failed(format!("{doing}: there are no credentials for S3"))
        .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE for one of ~/.aws")
}

/// hyper's own errors say little: what they were caused by is the news.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    texts.join(": ")
}

/// The text of an element of S3's answers.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let rest = xml.split_once(&format!("<{name}>"))?.1;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text.trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_in_a_line() {
        let xml =
            "Server returned non-2xx status code: 403: <Error><Code>AccessDenied</Code><Message> no </Message></Error>";
        let error = object_store::Error::Generic { store: "S3", source: xml.into() };
        let failure = failure("could not write x", &error);
        assert_eq!(failure.message, "could not write x: no (AccessDenied)");
    }
}

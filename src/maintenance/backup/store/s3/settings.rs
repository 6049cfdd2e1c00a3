//! What S3 is reached by: flags, AWS's variables, and the profiles in `~/.aws`. Secrets come from the latter two only.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use object_store::aws::AmazonS3Builder;

use super::S3Options;
use crate::maintenance::exit::Failure;

/// Variables that say who asks, in the words of the library. All others are read here.
const CREDENTIALS: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Those by which somebody is known without a profile.
const IDENTITIES: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// Ways to be somebody that a profile may name and that are not known here.
const UNKNOWN: [&str; 4] = ["role_arn", "credential_process", "sso_session", "sso_start_url"];

const DEFAULT_REGION: &str = "us-east-1";

/// Looks up one variable of the environment.
type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

type Profile = BTreeMap<String, String>;

/// A builder that has what the environment and the flags say.
pub(super) fn builder(bucket: &str, options: &S3Options) -> Result<AmazonS3Builder, Failure> {
    let env = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
    for name in CREDENTIALS {
        if let (Some(value), Ok(key)) = (env(name), name.to_ascii_lowercase().parse()) {
            builder = builder.with_config(key, value);
        }
    }
    let profile = profile(&env)?;
    if !IDENTITIES.iter().any(|name| env(name).is_some()) {
        builder = with_keys(builder, &profile)?;
    }
    let of_profile = |key: &str| profile.get(key).cloned();
    let region = options.s3_region.clone().or_else(|| env("AWS_REGION")).or_else(|| env("AWS_DEFAULT_REGION"));
    builder = builder.with_region(region.or_else(|| of_profile("region")).unwrap_or_else(|| DEFAULT_REGION.to_owned()));
    let endpoint =
        options.s3_endpoint.clone().or_else(|| env("AWS_ENDPOINT_URL_S3")).or_else(|| env("AWS_ENDPOINT_URL"));
    let endpoint = endpoint.or_else(|| of_profile("endpoint_url"));
    let Some(endpoint) = endpoint else {
        // A dot in the bucket's name is none that the certificate's wildcard stands for.
        return Ok(builder.with_virtual_hosted_style_request(!options.path_style && !bucket.contains('.')));
    };
    let (base, is_virtual) = endpoint_of(&endpoint, bucket, options.path_style).map_err(Failure::usage)?;
    let is_plain = base.starts_with("http://");
    Ok(builder.with_endpoint(base).with_virtual_hosted_style_request(is_virtual).with_allow_http(is_plain))
}

/// The address of the bucket's server, and whether the bucket is in its name.
fn endpoint_of(endpoint: &str, bucket: &str, path_style: bool) -> Result<(String, bool), String> {
    let wanted = || format!("the S3 endpoint {endpoint} is no http:// or https:// URL");
    let uri: Uri = endpoint.parse().map_err(|_| wanted())?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(wanted)?;
    let authority = uri.authority().ok_or_else(wanted)?;
    if authority.as_str().contains('@') {
        return Err("the S3 endpoint has a user in it: credentials come from the environment or ~/.aws".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let has_no_names = host == "localhost" || host.parse::<IpAddr>().is_ok();
    let path = uri.path().trim_end_matches('/');
    if path_style || has_no_names || !path.is_empty() || (scheme == "https" && bucket.contains('.')) {
        return Ok((format!("{scheme}://{authority}{path}"), false));
    }
    Ok((format!("{scheme}://{bucket}.{authority}"), true))
}

fn with_keys(builder: AmazonS3Builder, profile: &Profile) -> Result<AmazonS3Builder, Failure> {
    let Some(id) = profile.get("aws_access_key_id") else {
        return match UNKNOWN.iter().find(|key| profile.contains_key(**key)) {
            Some(key) => Err(Failure::usage(format!("the AWS profile says {key}, which is not supported"))
                .hint("export its credentials into the environment: aws configure export-credentials --format env")),
            // The machine itself may be somebody, and is asked.
            None => Ok(builder),
        };
    };
    let builder = builder.with_access_key_id(id);
    let builder = match profile.get("aws_secret_access_key") {
        Some(secret) => builder.with_secret_access_key(secret),
        None => builder,
    };
    Ok(match profile.get("aws_session_token") {
        Some(token) => builder.with_token(token),
        None => builder,
    })
}

/// What the two files say of the profile; what `credentials` says goes before what `config` says.
fn profile(env: Env<'_>) -> Result<Profile, Failure> {
    let named = env("AWS_PROFILE").or_else(|| env("AWS_DEFAULT_PROFILE"));
    let name = named.as_deref().unwrap_or("default");
    let in_home = |file: &str| env("HOME").map(|home| PathBuf::from(home).join(".aws").join(file));
    let config = env("AWS_CONFIG_FILE").map(PathBuf::from).or_else(|| in_home("config"));
    let credentials = env("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(|| in_home("credentials"));
    let read = |file: Option<PathBuf>| file.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let heading = if name == "default" { name.to_owned() } else { format!("profile {name}") };
    let of_config = section(&read(config), &heading);
    let of_credentials = section(&read(credentials), name);
    if named.is_some() && of_config.is_none() && of_credentials.is_none() {
        return Err(Failure::usage(format!("AWS_PROFILE={name}: there is no such profile in ~/.aws")));
    }
    let mut profile = of_config.unwrap_or_default();
    profile.extend(of_credentials.unwrap_or_default());
    Ok(profile)
}

/// The lines below `[heading]`; None: there is no such heading. Indented lines are settings of services, and none of ours.
fn section(text: &str, heading: &str) -> Option<Profile> {
    let mut found: Option<Profile> = None;
    let mut is_ours = false;
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_ours = name.split_whitespace().eq(heading.split_whitespace());
            if is_ours {
                found.get_or_insert_default();
            }
        } else if let (true, false, Some((key, value))) =
            (is_ours, line.starts_with(char::is_whitespace), line.split_once('='))
        {
            found.get_or_insert_default().insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles() {
        let text = "# c\n[default]\nregion = eu-west-1\n[profile a b]\nregion=x\ns3 =\n  endpoint_url = no\n; c\nAWS_Access_Key_Id= id = 1\n";
        assert_eq!(section(text, "default").unwrap()["region"], "eu-west-1");
        let named = section(text, "profile a b").unwrap();
        assert_eq!((named["region"].as_str(), named["aws_access_key_id"].as_str()), ("x", "id = 1"));
        assert!(!named.contains_key("endpoint_url"));
        assert_eq!(section(text, "a b"), None);
    }

    #[test]
    fn where_a_bucket_is() {
        for (endpoint, path_style, base, is_virtual) in [
            ("https://s3.example", false, "https://b.s3.example", true),
            ("https://s3.example/", true, "https://s3.example", false),
            ("http://127.0.0.1:9000", false, "http://127.0.0.1:9000", false),
            ("http://[::1]:9000", false, "http://[::1]:9000", false),
            ("http://localhost:9000", false, "http://localhost:9000", false),
            ("https://s3.example/store/", false, "https://s3.example/store", false),
        ] {
            assert_eq!(endpoint_of(endpoint, "b", path_style), Ok((base.to_owned(), is_virtual)), "{endpoint}");
        }
        assert_eq!(endpoint_of("https://s3.example", "b.c", false).unwrap().0, "https://s3.example");
        for endpoint in ["s3.example", "ftp://x", "https://u:secret@x"] {
            let error = endpoint_of(endpoint, "b", false).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

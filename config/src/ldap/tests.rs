use super::*;

fn parse(text: &str) -> LdapOptions {
    LdapOptions::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn search(text: &str) -> LdapSearch {
    match parse(text).bind {
        LdapBind::Search(search) => search,
        other => panic!("{text}: {other:?}"),
    }
}

fn filter(text: &str) -> Result<LdapFilter, String> {
    LdapFilter::parse(text)
}

#[test]
fn options_of_a_simple_bind() {
    let options =
        parse("ldapserver=\"a.example  [::1] 10.0.0.1\" , ldapprefix=\"uid=\" ldapsuffix=\",dc=\"\"x\"\"\" ldaptls=1");
    let expected = LdapOptions {
        servers: ["a.example", "::1", "10.0.0.1"].map(str::to_owned).to_vec(),
        port: 389,
        is_ldaps: false,
        is_start_tls: true,
        bind: LdapBind::Simple { prefix: "uid=".into(), suffix: ",dc=\"x\"".into() },
    };
    assert_eq!(options, expected);
    assert_eq!(parse("ldapserver=h ldapscheme=ldaps ldapsuffix=@x").port, 636);
    let both = parse("ldapserver=h ldapscheme=ldaps ldapport=7 ldaptls=1 ldapsuffix=@x # the rest is a comment");
    assert_eq!((both.port, both.is_ldaps, both.is_tls()), (7, true, true));
    assert!(both.warning().unwrap().starts_with("ldaptls=1 asks for TLS inside of ldaps"));
}

#[test]
fn options_of_a_search() {
    let plain = search("ldapserver=h ldapbasedn=\"dc=x\"");
    assert_eq!((&*plain.base_dn, plain.scope, &*plain.bind_dn), ("dc=x", LdapScope::Sub, ""));
    assert_eq!(plain.filter, filter("(uid=$username)").unwrap());
    let all = search("ldapserver=h ldapbasedn=x ldapbinddn=y ldapbindpasswd=\"z z\" ldapsearchattribute=mail");
    assert_eq!((&*all.bind_dn, all.bind_password.expose()), ("y", "z z"));
    assert_eq!(all.filter, filter("mail=$username").unwrap());
    assert!(!format!("{all:?}").contains("z z"));
    let fixed = parse("ldapserver=h ldapbasedn=x ldapsearchfilter=(uid=app)");
    assert!(fixed.warning().unwrap().contains("without $username"));
}

#[test]
fn options_in_a_url() {
    let options = parse("ldapurl=\"LDAP://h.example:12/dc=a%2cb?mail,uid?sub?\"");
    assert_eq!((&*options.servers, options.port, options.is_ldaps), (&["h.example".to_owned()][..], 12, false));
    let LdapBind::Search(found) = options.bind else { panic!("no search") };
    assert_eq!((&*found.base_dn, found.scope), ("dc=a,b", LdapScope::Sub));
    assert_eq!(found.filter, filter("mail=$username").unwrap());
    let options = parse("ldapport=7 ldapurl=ldaps://[::1]/x?? ldapserver=other");
    assert_eq!((&*options.servers, options.port, options.is_ldaps), (&["other".to_owned()][..], 636, true));
    // As in libldap, whose default is another without a URL.
    assert_eq!(search("ldapurl=ldap://h/x").scope, LdapScope::Base);
    let one = search("ldapurl=ldap://h/x??one?(%7C(uid=$username)(mail=$username))");
    assert_eq!((one.scope, one.filter), (LdapScope::One, filter("(|(uid=$username)(mail=$username))").unwrap()));
}

#[test]
fn what_is_wrong_with_options() {
    for (text, error) in [
        ("", "LDAP needs ldapserver, or a host in ldapurl; servers are not looked up in the DNS"),
        ("ldapserver=h", "LDAP needs ldapbasedn, ldapprefix or ldapsuffix"),
        ("ldapserver=h ldapbinddn=x", "LDAP needs ldapbasedn, ldapprefix or ldapsuffix"),
        ("ldapserver=h ldapprefix=x ldapbasedn=y", "ldapprefix and ldapsuffix do not go with options for a search"),
        ("ldapserver=h ldapprefix=x ldapbinddn=y", "ldapprefix and ldapsuffix do not go with options for a search"),
        (
            "ldapserver=h ldapbasedn=x ldapsearchattribute=a ldapsearchfilter=a=b",
            "ldapsearchattribute does not go with ldapsearchfilter",
        ),
        ("ldapserver=h ldapbasedn=x ldapsearchattribute=(a", "invalid ldapsearchattribute \"(a\""),
        ("ldapserver=h:389", "invalid ldapserver \"h:389\", expected names or addresses; the port is ldapport"),
        ("ldapport=0", "invalid ldapport \"0\", expected a port"),
        ("ldapport=65536", "invalid ldapport \"65536\", expected a port"),
        ("ldaptls=on", "invalid ldaptls \"on\", expected 1 or 0"),
        ("ldapscheme=ldapi", "unsupported LDAP scheme \"ldapi\", expected ldap or ldaps"),
        ("ldapurl=ldapi://h", "invalid ldapurl: unsupported LDAP scheme \"ldapi\", expected ldap or ldaps"),
        ("ldapurl=h/x", "invalid ldapurl: expected ldap://host/basedn"),
        ("ldapurl=ldap://h:x/", "invalid ldapurl: invalid port \"x\""),
        ("ldapurl=ldap://h/x??all", "invalid ldapurl: unknown scope \"all\", expected base, one or sub"),
        ("ldapurl=ldap://h/%4", "invalid ldapurl: % without two hexadecimal digits"),
        ("ldapurl=ldap://h/%ff", "invalid ldapurl: not in UTF-8"),
        ("ldapurl=ldap://h/x????!e", "invalid ldapurl: extensions are not supported"),
        ("ldapurl=\"ldap://a b/\"", "invalid ldapurl: more than one host"),
        ("ldapbase=x", "unknown LDAP option \"ldapbase\""),
        ("ldapserver", "name=value expected"),
        ("ldap server=h", "name=value expected"),
        ("ldapserver= h", "ldapserver has no value"),
        ("ldapserver=\"h", "the quote of ldapserver is not closed"),
        ("\"ldapserver\" =h", "name=value expected"),
        ("ldapserver=\u{fffd}", "ldapserver is not in UTF-8"),
        ("ldapbindpasswd=hun ter", "name=value expected behind the password; one with spaces needs quotes"),
        ("ldapbindpasswd=hun ter=2", "unknown LDAP option behind the password; one with spaces needs quotes"),
    ] {
        assert_eq!(LdapOptions::parse(text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn filters_are_read_whole() {
    let user = Template::default;
    let both = filter(" (&(objectClass=*) (!(a>=1))(| (b<=\\28x\\29)(c~=\u{e9}))) ").unwrap();
    let LdapFilter::And(parts) = both else { panic!("not all of them") };
    assert_eq!(parts[0], LdapFilter::Present("objectClass".into()));
    assert!(
        matches!(&parts[1], LdapFilter::Not(not) if matches!(&**not, LdapFilter::Compare { comparison: Comparison::GreaterOrEqual, .. }))
    );
    let LdapFilter::Or(parts) = &parts[2] else { panic!("none of them") };
    let values = parts.iter().map(|part| match part {
        LdapFilter::Compare { value, .. } => value.fill("u"),
        other => panic!("{other:?}"),
    });
    assert_eq!(values.collect::<Vec<_>>(), [b"(x)".to_vec(), "\u{e9}".as_bytes().to_vec()]);
    assert_eq!(
        filter("m=a*b*$username"),
        Ok(LdapFilter::Substrings {
            attribute: "m".into(),
            initial: single("a"),
            any: single("b").into_iter().collect(),
            last: single("$username"),
        })
    );
    assert!(
        matches!(filter("(m=*a**)"), Ok(LdapFilter::Substrings { initial: None, any, last: None, .. }) if any.len() == 1)
    );
    assert!(
        matches!(filter("(cn:dn:2.4.6:=x)"), Ok(LdapFilter::Extensible { rule: Some(rule), with_dn: true, .. }) if rule == "2.4.6")
    );
    assert!(matches!(filter("(:caseExact:=x)"), Ok(LdapFilter::Extensible { attribute: None, with_dn: false, .. })));
    assert_eq!(user().fill("u"), b"");
}

fn single(value: &str) -> Option<Template> {
    match filter(&format!("a={value}")) {
        Ok(LdapFilter::Compare { value, .. }) => Some(value),
        other => panic!("{other:?}"),
    }
}

#[test]
fn filters_that_are_none() {
    let deep = format!("{}(a=b){}", "(!".repeat(40), ")".repeat(40));
    for (text, error) in [
        ("", "attribute=value expected"),
        ("(a=b", ") expected"),
        ("(a=b))", "text behind its end"),
        ("(a=b)(c=d)", "text behind its end"),
        ("(&)", "( expected"),
        ("(!(a=b)(c=d))", "! is for one filter"),
        ("(a=b(c)", ") expected"),
        ("($username=x)", "\"$username\" is no attribute"),
        ("(=x)", "\"\" is no attribute"),
        ("(a>=b*c)", "* has no meaning here"),
        ("(a=\\2)", "\\ without two hexadecimal digits"),
        ("(a=\\\u{e9}\u{e9})", "\\ without two hexadecimal digits"),
        ("(:dn:=x)", "\":dn:=\" is no matching rule"),
        ("(a:b:c:=x)", "\"a:b:c:=\" is no matching rule"),
        (&deep, "more than 32 parentheses within each other"),
    ] {
        assert_eq!(filter(text).unwrap_err(), error, "{text}");
    }
}

#[test]
fn a_name_in_a_filter_is_a_value_and_nothing_else() {
    for user in ["*", "a)(uid=*", "\\2a", "$username", "a*b", ""] {
        assert_eq!(single("x$username\\2ay$username").unwrap().fill(user), format!("x{user}*y{user}").as_bytes());
    }
}

#[test]
fn a_name_in_the_name_of_an_entry_is_a_value_and_nothing_else() {
    let name = |user| bind_name("uid=", user, ",dc=x").unwrap();
    assert_eq!(name("app"), "uid=app,dc=x");
    assert_eq!(name("a,ou=b+c=d"), "uid=a\\,ou\\=b\\+c\\=d,dc=x");
    assert_eq!(name("\\2c\"<>;"), "uid=\\\\2c\\\"\\<\\>\\;,dc=x");
    assert_eq!(name(" a b "), "uid=\\ a b\\ ,dc=x");
    assert_eq!(name("#a#\n\u{e9}"), "uid=\\#a#\\0a\u{e9},dc=x");
    assert_eq!(name(" "), "uid=\\ ,dc=x");
    assert_eq!(name(""), "uid=,dc=x");
}

#[test]
fn other_names_have_no_escapes() {
    assert_eq!(bind_name("", "app", "@example.org").as_deref(), Some("app@example.org"));
    assert_eq!(bind_name("CORP\\", "a.b-c d", "").as_deref(), Some("CORP\\a.b-c d"));
    for user in ["a@b", "CORP\\a", "cn=a", "a,b", "a\n", "a/b", "a+b", "\"a\"", "#1"] {
        assert_eq!(bind_name("", user, "@example.org"), None, "{user}");
    }
}

//! Damaged files: whatever they hold, they load or are refused, and what loads can be shown and loaded again.

use std::path::{Path, PathBuf};

use pgweir_config::Source;

/// Damaged copies made of each file.
const ROUNDS: u64 = 400;

/// Pseudo-random numbers, the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit.max(1)).unwrap()).unwrap()
    }
}

/// Characters that mean something in some file, or nothing anywhere.
const PIECES: [&str; 16] =
    ["\n", "\r", "'", "\"", "=", "[", "]", ";", " ", "%include ", "\0", "\u{fffd}", "é", "$", "-1", "]]\n[["];

fn damage(text: &str, random: &mut Random) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(3) {
            0 => drop(bytes.drain(at..(at + random.below(9)).min(bytes.len()))),
            1 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].bytes())),
            _ => bytes[at] = u8::try_from(random.below(256)).unwrap(),
        }
    }
    bytes
}

/// A directory of this test's own, gone when dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Loads damaged copies of a file. Returns how many loaded.
fn check(file: &str, extension: &str) -> usize {
    let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
    let name = format!("pgweir-garbage-{}-{}", std::process::id(), file.replace('/', "-"));
    let directory = Directory(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&directory.0).unwrap();
    let (damaged, shown) = (directory.0.join(format!("damaged.{extension}")), directory.0.join("shown.ini"));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut count = 0;
    for round in 0..ROUNDS {
        std::fs::write(&damaged, damage(&text, &mut random)).unwrap();
        if let Ok(loaded) = load(&damaged) {
            count += 1;
            std::fs::write(&shown, loaded.config.effective()).unwrap();
            if let Err(problems) = load(&shown) {
                let damaged = std::fs::read(&damaged).unwrap();
                panic!("round {round}:\n{problems}\nof:\n{}", String::from_utf8_lossy(&damaged));
            }
        }
    }
    count
}

fn load(path: &Path) -> Result<pgweir_config::Loaded, pgweir_config::Problems> {
    Source::new(Some(path), []).load()
}

#[test]
fn damaged_ini_files() {
    assert!(check("tests/data/debian.ini", "ini") > 0);
    assert!(check("tests/data/managed.ini", "ini") > 0);
    assert_eq!(check("tests/data/broken.ini", "ini"), 0);
}

#[test]
fn damaged_toml_files() {
    assert!(check("tests/data/debian.toml", "toml") > 0);
}

#[test]
fn damaged_user_lists() {
    let text = std::fs::read_to_string("tests/data/userlist.txt").unwrap();
    let name = format!("pgweir-garbage-users-{}", std::process::id());
    let directory = Directory(std::env::temp_dir().join(name));
    std::fs::create_dir_all(&directory.0).unwrap();
    let (users, file) = (directory.0.join("users.txt"), directory.0.join("x.ini"));
    std::fs::write(&file, format!("[pgbouncer]\nauth_file = {}\n", users.display())).unwrap();
    let mut random = Random(0xdead_beef_cafe_f00d);
    let mut least = usize::MAX;
    for _ in 0..ROUNDS {
        std::fs::write(&users, damage(&text, &mut random)).unwrap();
        // A damaged user is left out, and nothing else happens.
        least = least.min(load(&file).unwrap().config.userlist.len());
    }
    assert!(least < 4, "no user was damaged");
}

//! Hostile requests generated from a seed. Every one of them must be rejected.

use super::TASKS;

/// SplitMix64: a seed always gives the same numbers, independent of the versions of other crates.
pub(crate) struct Dice(pub u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, which must not be 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = 1 + self.below(most);
        (0..length).map(|_| self.roll() as u8).collect()
    }
}

/// A request, and how to read its response.
pub(super) struct Attack {
    pub bytes: Vec<u8>,
    pub head_only: bool,
}

/// The tokens that attacks use.
pub(super) struct Tokens {
    /// Allowed to read [`TASKS`].
    pub good: String,
    /// Valid, but not allowed to.
    pub other: String,
}

/// Generates the attack with this number; the kinds take turns.
pub(super) fn attack(number: usize, dice: &mut Dice, tokens: &Tokens) -> Attack {
    let good = &tokens.good;
    match number % 8 {
        0 => get(&format!("{TASKS}&{}", reserved(dice)), good),
        1 => random_query(dice, &tokens.other),
        2 => get(&format!("{TASKS}&x={}", "a".repeat(8_192 + dice.below(16_384))), good),
        3 => odd_method(dice, good),
        4 => doubled_header(dice, good),
        5 => get(TASKS, &mutated(dice, good)),
        6 => get(&odd_target(dice), good),
        _ => get(&format!("{TASKS}&{}", bad_value(dice)), good),
    }
}

fn get(target: &str, token: &str) -> Attack {
    request("GET", target, &format!("Authorization: Bearer {token}\r\n"))
}

fn request(method: &str, target: &str, headers: &str) -> Attack {
    Attack {
        bytes: format!("{method} {target} HTTP/1.1\r\nHost: gate.test\r\n{headers}\r\n").into_bytes(),
        head_only: method == "HEAD",
    }
}

/// Generates a reserved parameter of Electric in any case, encoding and brackets (docs/security.md, Q2, Q4, Q5).
fn reserved(dice: &mut Dice) -> String {
    const NAMES: [&str; 13] = [
        "table",
        "where",
        "params",
        "columns",
        "queryable_columns",
        "subset",
        "subset__where",
        "subset__order_by",
        "secret",
        "api_secret",
        "source_id",
        "shape_definition",
        "order_by",
    ];
    let name = dice.pick(&NAMES);
    let spelt: String = name.chars().map(|letter| spelling(dice, letter)).collect();
    let brackets = dice.pick(&["", "", "[]", "[1]", "[where]", "%5B%5D", "%5b1]", "[1][2]"]);
    format!("{spelt}{brackets}={}", dice.pick(&["", "x", "true", "1%3D1", "%7B%7D", "org_2"]))
}

fn spelling(dice: &mut Dice, letter: char) -> String {
    match dice.below(4) {
        0 => letter.to_ascii_uppercase().to_string(),
        1 => format!("%{:02x}", letter as u8),
        2 => format!("%{:02X}", letter.to_ascii_uppercase() as u8),
        _ => letter.to_string(),
    }
}

/// Generates random bytes, raw or encoded (docs/security.md, Q6). The token may not read the shape, so that any
/// interpretation of them is rejected.
fn random_query(dice: &mut Dice, token: &str) -> Attack {
    let mut bytes = format!("GET {TASKS}&").into_bytes();
    let random = dice.bytes(60);
    if dice.one_in(2) {
        bytes.extend(random);
    } else {
        bytes.extend(random.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()));
    }
    bytes.extend(format!(" HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes());
    Attack { bytes, head_only: false }
}

fn odd_method(dice: &mut Dice, token: &str) -> Attack {
    const METHODS: [&str; 12] =
        ["POST", "PUT", "PATCH", "DELETE", "TRACE", "HEAD", "CONNECT", "get", "Get", "PRI", "GETT", "X-Y!"];
    let method = dice.pick(&METHODS);
    request(method, TASKS, &format!("Authorization: Bearer {token}\r\n"))
}

/// Generates a duplicate of a header that must be unique, or a forbidden header (docs/security.md, T16, P8).
fn doubled_header(dice: &mut Dice, token: &str) -> Attack {
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let more = match dice.below(7) {
        0 => bearer.clone(),
        1 => "Authorization:\r\n".to_owned(),
        2 => "Host: other.test\r\n".to_owned(),
        3 => "Origin: https://a.test\r\nOrigin: https://b.test\r\n".to_owned(),
        4 => "Content-Length: 0\r\nContent-Length: 7\r\n".to_owned(),
        5 => "Expect: 100-continue\r\n".to_owned(),
        _ => (0..64).map(|number| format!("x-{number}: 1\r\n")).collect(),
    };
    request("GET", TASKS, &format!("{bearer}{more}"))
}

/// Changes one thing in a valid token (docs/security.md, T8, T15).
fn mutated(dice: &mut Dice, token: &str) -> String {
    let at = 1 + dice.below(token.len() - 1);
    let parts: Vec<_> = token.split('.').collect();
    match dice.below(8) {
        0 | 1 => flipped(dice, token, at),
        2 => format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        3 => format!("{}.{}.{}", parts[0], parts[2], parts[1]),
        4 => format!("{}.{}", &token[..at], &token[at..]),
        5 => format!("{}{}{}", &token[..at], dice.pick(&[" ", "\t", ",", "=", "\u{e9}", "%2e"]), &token[at..]),
        6 => token[..at].to_owned(),
        _ => format!("{}{token}", dice.pick(&[" ", ".", "Bearer ", "a", "\"", ","])),
    }
}

/// Replaces the character at `at` by another one, in the base64url alphabet or not.
fn flipped(dice: &mut Dice, token: &str, at: usize) -> String {
    let mut bytes = token.as_bytes().to_vec();
    let others: Vec<_> = b"ABCDwxyz0189-_.~+/".iter().filter(|other| **other != bytes[at]).collect();
    bytes[at] = *others[dice.below(others.len())];
    String::from_utf8(bytes).unwrap()
}

/// Picks a wrong spelling of the path (docs/security.md, Q7).
fn odd_target(dice: &mut Dice) -> String {
    let query = &TASKS["/v1/shape".len()..];
    let path = dice.pick(&[
        "//v1/shape",
        "/v1//shape",
        "/v1/shape/",
        "/v1/./shape",
        "/v1/x/../shape",
        "/v1/%73hape",
        "/v1%2fshape",
        "/V1/SHAPE",
        "/v1/shape;x=1",
        "/v1/shape%00",
        "/v1/shape%3f",
        "/v1/health",
        "/metrics",
        "/api/items/",
        "http://gate.test/v1/shape",
        "https://127.0.0.1/v1/shape",
        "*",
        "v1/shape",
        "\\v1\\shape",
        "/v1/shape#",
    ]);
    format!("{path}{query}")
}

/// Generates an allowed parameter with a bad value or too many of them (docs/security.md, Q3, Q4, Q6).
fn bad_value(dice: &mut Dice) -> String {
    let again = ["organizationId=org_1", "organizationId=", "offset=-1", "table=tasks", "table="];
    let broken = ["x=%", "x=%0", "x=%zz", "x=%00", "x=%0d%0a", "x=%ff", "x=%c0%af", "x=%ed%a0%80", "%ef%bb%bf=x"];
    let protocol = ["handle=a%00b", "live=yes", "live=TRUE", "log=none", "replica=full", "Offset=-1", "cursor=x%0a"];
    match dice.below(4) {
        0 => dice.pick(&again).to_owned(),
        1 => dice.pick(&broken).to_owned(),
        2 => dice.pick(&protocol).to_owned(),
        _ => "x&".repeat(64 + dice.below(1_000)),
    }
}

//! Converts flags, results and statuses to label values.

/// Returns the label value of a flag.
pub(super) const fn flag(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// Returns the label value of a result.
pub(super) const fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "refused" }
}

/// Returns the label value of a status. A status that shapegate never sends becomes `other`, so that Electric cannot
/// create new label values.
pub(super) fn status(status: u16) -> &'static str {
    STATUSES.iter().find(|(known, _)| *known == status).map_or("other", |(_, label)| label)
}

const STATUSES: [(u16, &str); 20] = [
    (0, "none"),
    (200, "200"),
    (204, "204"),
    (304, "304"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (409, "409"),
    (413, "413"),
    (414, "414"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
];

//! References in values, as oslo.config has them: `$key` and `${key}` of the
//! same group or of DEFAULT, `${group.key}`, and `$$` or `\$` for the sign.

/// How deep references may refer.
const DEPTH: usize = 16;

/// Puts the values of references in. `lookup` gives the text of an option,
/// with the group of which it is, or `None` if there is no such option.
///
/// # Errors
/// Words for an operator: which reference leads nowhere, or in a circle.
pub(super) fn substitute(
    group: &str,
    text: &str,
    lookup: &dyn Fn(&str, &str) -> Option<String>,
) -> Result<String, String> {
    expand(group, text, lookup, DEPTH)
}

fn expand(
    group: &str,
    text: &str,
    lookup: &dyn Fn(&str, &str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    if depth == 0 {
        return Err("refers to itself, or through too many others".to_owned());
    }
    let text = text.replace(r"\$", "$$");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(after) {
            let (group, text) = find(group, name, lookup)
                .ok_or_else(|| format!("refers to ${name}, which is no option; write $$ for $"))?;
            out.push_str(&expand(&group, &text, lookup, depth - 1)?);
            rest = after;
        } else {
            // A sign that refers to nothing stands for itself.
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Splits what follows a `$` into a name and what comes after the reference.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (text, braced) = match text.strip_prefix('{') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
    let end = text.find(|c| !is_inner(c)).unwrap_or(text.len());
    let (name, after) = text.split_at_checked(end)?;
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    let after = if braced {
        after.strip_prefix('}')?
    } else {
        after
    };
    Some((name, after))
}

/// The group and the text of the option that a reference means.
fn find(
    group: &str,
    name: &str,
    lookup: &dyn Fn(&str, &str) -> Option<String>,
) -> Option<(String, String)> {
    let (group, key) = name.split_once('.').unwrap_or((group, name));
    match lookup(group, key) {
        Some(text) => Some((group.to_owned(), text)),
        None => Some(("DEFAULT".to_owned(), lookup("DEFAULT", name)?)),
    }
}

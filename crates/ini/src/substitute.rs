//! References in values, as oslo.config has them: `$key` and `${key}` of the
//! same group or of DEFAULT, `${group.key}`, and `$$` or `\$` for the sign.

/// How deep references may refer.
const DEPTH: usize = 16;
/// How many references one value may come to; values that name others several
/// times would else double and double again.
const REFERENCES: usize = 1000;

/// Puts the values of references in. `lookup` gives the text of an option,
/// with the group of which it is, or `None` if there is no such option.
///
/// # Errors
/// Words for an operator: which reference leads nowhere, or in a circle, or
/// that they are too many.
pub fn substitute(
    group: &str,
    text: &str,
    lookup: &dyn Fn(&str, &str) -> Option<String>,
) -> Result<String, String> {
    expand(group, text, lookup, DEPTH, &mut 0)
}

fn expand(
    group: &str,
    text: &str,
    lookup: &dyn Fn(&str, &str) -> Option<String>,
    depth: usize,
    references: &mut usize,
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
            *references += 1;
            if *references > REFERENCES {
                return Err(format!("comes to more than {REFERENCES} references"));
            }
            out.push_str(&expand(&group, &text, lookup, depth - 1, references)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that each name the next one eight times: a file of a few lines must
    /// not take for ever.
    #[test]
    fn doubling_ends() {
        let lookup = |_: &str, key: &str| {
            let number: u32 = key.strip_prefix('k')?.parse().ok()?;
            Some(match number {
                12.. => String::new(),
                _ => format!("$k{}", number + 1).repeat(8),
            })
        };
        let answer = substitute("a", "$k0", &lookup);
        assert!(answer.is_err_and(|reason| reason.contains("more than")));
        assert_eq!(substitute("a", "$k11$$", &lookup), Ok("$".to_owned()));
    }

    /// A circle is an error, not the end of the stack.
    #[test]
    fn circles_end() {
        let answer = substitute("a", "$b", &|_, _| Some("${b}".to_owned()));
        assert!(answer.is_err_and(|reason| reason.contains("refers to itself")));
    }
}

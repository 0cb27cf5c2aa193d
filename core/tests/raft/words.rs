//! The words of a command.

use smalti_core::time::Duration;

/// The number of a member, `n1`.
pub(crate) fn number(word: &str) -> Result<u8, String> {
    let number = word.strip_prefix('n').and_then(|it| it.parse().ok());
    number.ok_or_else(|| format!("{word} is no member"))
}

/// The number behind `key=`, where there is one.
pub(crate) fn value(words: &[&str], key: &str) -> Result<Option<usize>, String> {
    let values = words.iter().filter_map(|word| word.split_once('='));
    let mut values = values.filter(|(of, _)| *of == key);
    let value = values.next().map(|(_, value)| value.parse());
    value.transpose().map_err(|_| format!("{key} is no number"))
}

/// A time, `250ms` or `3s`.
pub(crate) fn time(word: &str) -> Result<Duration, String> {
    let millis = word.strip_suffix("ms").map(|it| (it, 1));
    let time = millis.or_else(|| word.strip_suffix('s').map(|it| (it, 1_000)));
    let (count, unit) = time.ok_or_else(|| format!("{word} is no time"))?;
    let count: u64 = count.parse().map_err(|_| format!("{word} is no time"))?;
    Ok(Duration::from_millis(count * unit))
}

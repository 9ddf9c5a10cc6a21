//! Days as templates write them.

/// A calendar day for templates that write one; `models` reads no clock, so the caller says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

const MONTHS: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The fields of C's strftime that templates use, in English, at midnight.
pub(super) fn strftime(format: &str, date: Date) -> String {
    let month = MONTHS[usize::from(date.month.clamp(1, 12)) - 1];
    let weekday = WEEKDAYS[weekday(date)];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '%' { chars.next() } else { None }) {
            ('%', Some('Y')) => out += &date.year.to_string(),
            ('%', Some('y')) => out += &format!("{:02}", date.year % 100),
            ('%', Some('m')) => out += &format!("{:02}", date.month),
            ('%', Some('d')) => out += &format!("{:02}", date.day),
            ('%', Some('B')) => out += month,
            ('%', Some('b')) => out += &month[..3],
            ('%', Some('A')) => out += weekday,
            ('%', Some('a')) => out += &weekday[..3],
            ('%', Some('H' | 'M' | 'S')) => out += "00",
            ('%', Some('%')) => out.push('%'),
            ('%', Some(other)) => out.extend(['%', other]),
            _ => out.push(c),
        }
    }
    out
}

/// Days since Sunday, in the Gregorian calendar (Sakamoto's method).
fn weekday(date: Date) -> usize {
    const SHIFT: [usize; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
    let month = usize::from(date.month.clamp(1, 12));
    let year = usize::from(date.year) + 400 - usize::from(month < 3);
    (year + year / 4 - year / 100 + year / 400 + SHIFT[month - 1] + usize::from(date.day)) % 7
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_days_as_c_does() {
        let of = |year, month, day, format| strftime(format, Date { year, month, day });
        assert_eq!(of(2026, 7, 4, "%d %b %Y, %A %B %y %H:%M %% %q%"), "04 Jul 2026, Saturday July 26 00:00 % %q%");
        assert_eq!(of(2000, 2, 29, "%a"), "Tue");
        assert_eq!(of(0, 0, 0, "%m %b").len(), 6); // no such day, and no panic
    }
}

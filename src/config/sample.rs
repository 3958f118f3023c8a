//! A configuration file to begin with.

use super::keys;

/// Bytes of a comment in one line.
const LINE_BYTES: usize = 96;

/// Every setting with its meaning and its default, commented out.
#[must_use]
pub fn sample() -> String {
    let mut tables: Vec<(&str, String)> = vec![("", String::new())];
    for setting in keys::all() {
        let (table, name) = setting.key.split_once('.').unwrap_or(("", &setting.key));
        // Parts of a setting, and further names of one.
        if name.contains('.') || setting.help.starts_with("Same as ") {
            continue;
        }
        let index = tables.iter().position(|(known, _)| *known == table);
        let index = index.unwrap_or_else(|| {
            tables.push((table, format!("\n[{table}]\n")));
            tables.len() - 1
        });
        let text = &mut tables[index].1;
        text.push('\n');
        add_comment(text, &setting.help);
        let default = setting.default.as_deref().map(|it| format!(" {it}"));
        *text += &format!("# {name} ={}\n", default.unwrap_or_default());
    }
    let tables: String = tables.into_iter().map(|(_, text)| text).collect();
    format!(
        "# fanwire serve --config FILE\n\
         # What is commented out has the value shown. `fanwire config` prints what is in force.\n\
         {tables}"
    )
}

fn add_comment(text: &mut String, comment: &str) {
    let mut line = "#".to_owned();
    for word in comment.split_whitespace() {
        if line.len() + word.len() > LINE_BYTES {
            *text += &format!("{line}\n");
            line = "#".to_owned();
        }
        line += &format!(" {word}");
    }
    *text += &format!("{line}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_all_comments_taken_away_it_is_a_file_of_the_defaults() {
        let lines = sample();
        let lines = lines.lines().map(|line| {
            let setting = line.strip_prefix("# ").filter(|rest| {
                let name = rest.split(' ').next().unwrap_or_default();
                let is_name = name.starts_with(|c: char| c.is_ascii_lowercase());
                is_name && rest.starts_with(&format!("{name} = "))
            });
            setting.unwrap_or(line)
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        let file: toml::Table = toml::from_str(&text).unwrap();
        assert!(file.len() > 50, "{file:?}");
        assert!(file["gateway"]["rate_limit"].is_str() || file["gateway"]["rate_limit"].is_table());
    }
}

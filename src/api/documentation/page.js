"use strict";

// Shows what /openapi.json describes, and sends requests.

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function resolve(api, schema) {
  if (schema && schema.$ref) {
    return resolve(api, schema.$ref.split("/").slice(1).reduce((at, part) => at[part], api));
  }
  return schema || {};
}

// The fields of an object, or null.
function fields(api, schema) {
  const resolved = resolve(api, schema);
  const parts = (resolved.allOf || [resolved]).map((part) => resolve(api, part));
  const all = Object.assign({}, ...parts.map((part) => part.properties || {}));
  const required = parts.flatMap((part) => part.required || []);
  return Object.keys(all).length ? { all, required } : null;
}

function typeOf(api, schema) {
  const resolved = resolve(api, schema);
  const type = [].concat(resolved.type || "any").filter((it) => it !== "null").join(" or ");
  return type === "array" ? `array of ${typeOf(api, resolved.items)}` : type;
}

function table(api, rows) {
  const made = element("table");
  for (const { name, schema, text, required } of rows) {
    const row = element("tr");
    row.append(element("td", "", element("code", name)));
    row.append(element("td", typeOf(api, schema) + (required ? ", required" : "")));
    row.append(element("td", text || resolve(api, schema).description || ""));
    made.append(row);
  }
  return made;
}

function fieldRows({ all, required }) {
  return Object.entries(all).map(([name, schema]) => ({
    name, schema, text: schema.description, required: required.includes(name),
  }));
}

function sample(api, schema) {
  const found = fields(api, schema);
  if (!found) return "{}";
  const needed = Object.keys(found.all).filter((name) => found.required.includes(name) || name === "data");
  const value = (name) => {
    const field = resolve(api, found.all[name]);
    if (field.example !== undefined) return field.example;
    return typeOf(api, field).startsWith("array") ? [] : name === "data" ? { text: "hello" } : "";
  };
  return JSON.stringify(Object.fromEntries(needed.map((name) => [name, value(name)])), null, 2);
}

function tryIt(path, method, parameters, body) {
  const inputs = parameters.map((parameter) => {
    const input = element("input");
    input.placeholder = parameter.name;
    return [parameter, input];
  });
  const area = element("textarea", body || "");
  const output = element("pre");
  const button = element("button", "Send");
  button.onclick = async () => {
    let target = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const [{ name, in: place }, { value }] of inputs) {
      if (place === "path") target = target.replace(`{${name}}`, encodeURIComponent(value));
      else if (value && place === "query") query.set(name, value);
      else if (value) headers[name] = value;
    }
    const key = document.getElementById("key").value;
    if (key) headers["X-API-Key"] = key;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const url = query.size ? `${target}?${query}` : target;
    const options = { method: method.toUpperCase(), headers, body: body === undefined ? undefined : area.value };
    try {
      const answer = await fetch(url, options);
      output.textContent = `${answer.status} ${answer.statusText}\n${await answer.text()}`;
    } catch (error) {
      output.textContent = String(error);
    }
  };
  const form = element("div", "", ...inputs.map(([, input]) => input));
  if (body !== undefined) form.append(area);
  form.append(button, output);
  return form;
}

async function show() {
  const api = await (await fetch("/openapi.json")).json();
  const main = document.getElementById("operations");
  main.textContent = "";
  const byTag = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["other"])[0];
      byTag.set(tag, [...(byTag.get(tag) || []), [path, method, operation]]);
    }
  }
  for (const [tag, operations] of byTag) {
    main.append(element("h2", tag));
    for (const [path, method, operation] of operations) {
      const parameters = operation.parameters || [];
      const content = operation.requestBody && operation.requestBody.content["application/json"];
      const summary = element("summary");
      const name = element("span", method.toUpperCase());
      name.className = "method";
      summary.append(name, element("code", path), " ", operation.summary || "");
      const details = element("details", "", summary);
      if (operation.description) details.append(element("p", operation.description));
      if (parameters.length) {
        details.append(table(api, parameters.map((parameter) => ({
          name: parameter.name, schema: parameter.schema, text: parameter.description, required: parameter.required,
        }))));
      }
      const found = content && fields(api, content.schema);
      if (found) details.append(element("h4", "Body"), table(api, fieldRows(found)));
      details.append(tryIt(path, method, parameters, content && sample(api, content.schema)));
      main.append(details);
    }
  }
}

show();

/**
 * What is shown of an artifact without loading it: the preview that was made where the value was made.
 */

import { PageConfig, URLExt } from '@jupyterlab/coreutils';
import type { PartialJSONObject, PartialJSONValue } from '@lumino/coreutils';
import * as React from 'react';

const ROWS = 8;

export interface IPreviewProps {
  readonly preview: PartialJSONObject;
  /** Show a MIME bundle, untrusted. */
  readonly bundle: (data: PartialJSONObject) => JSX.Element;
}

export function Preview({ preview, bundle }: IPreviewProps): JSX.Element | null {
  switch (preview.kind) {
    case 'frame':
      return <Frame preview={preview} />;
    case 'figure':
      return <Figure preview={preview} bundle={bundle} />;
    case 'estimator':
      return <Facts facts={objectOf(preview.parameters ?? preview.params)} />;
    case 'array':
      return <Facts facts={rest(preview, ['kind', 'text', 'shape', 'type'])} />;
    default: {
      const text = preview.text ?? preview.repr;
      return typeof text === 'string' ? <pre className="jp-mlb-Preview-text">{text}</pre> : null;
    }
  }
}

/** An artifact in a few words: `DataFrame 336,776 × 14`. */
export function summary(type: string, preview: PartialJSONObject): string {
  const short = type.split('.').pop() ?? type;
  const shape = preview.shape;
  const size = Array.isArray(shape)
    ? ` ${shape.map(each => Number(each).toLocaleString('en-US')).join(' × ')}`
    : '';
  const kind =
    preview.kind === 'array' && typeof preview.type === 'string' ? ` ${preview.type}` : '';
  return `${short}${size}${kind}`;
}

function Frame({ preview }: { readonly preview: PartialJSONObject }): JSX.Element | null {
  const columns = listOf(preview.columns).map(nameOf);
  const numeric = listOf(preview.columns).map(column =>
    /int|float|decimal/i.test(said(objectOf(column).type))
  );
  const rows = listOf(preview.rows ?? preview.head).slice(0, ROWS);
  const index = listOf(preview.index);
  if (!columns.length) {
    return null;
  }
  return (
    <div className="jp-mlb-Preview-scroll">
      <table className="jp-mlb-Preview-frame">
        <thead>
          <tr>
            {index.length > 0 && <th />}
            {columns.map((name, at) => (
              <th scope="col" key={at}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, at) => (
            <tr key={at}>
              {index.length > 0 && <th scope="row">{said(index[at])}</th>}
              {columns.map((name, place) => {
                const value = Array.isArray(row) ? row[place] : objectOf(row)[name];
                return (
                  <td key={place} className={numeric[place] ? 'jp-mod-number' : ''}>
                    {said(value)}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Figure({ preview, bundle }: IPreviewProps): JSX.Element | null {
  const data = objectOf(preview.data);
  const png = preview.png ?? preview.image;
  if (typeof preview.picture === 'string') {
    return (
      <img
        className="jp-mlb-Preview-picture"
        src={pictureUrl(preview.picture)}
        alt={said(preview.text)}
      />
    );
  }
  if (typeof png === 'string') {
    return bundle({ 'image/png': png });
  }
  return Object.keys(data).length ? bundle(data) : null;
}

/** Where the server answers a picture that is kept beside its value. */
function pictureUrl(digest: string): string {
  return URLExt.join(
    PageConfig.getBaseUrl(),
    'mlbench/api/v1/artifacts',
    encodeURIComponent(digest),
    'picture'
  );
}

function Facts({ facts }: { readonly facts: PartialJSONObject }): JSX.Element | null {
  const entries = Object.entries(facts).filter(([, value]) => value !== null);
  return entries.length ? (
    <dl className="jp-mlb-Facts">
      {entries.slice(0, 24).map(([name, value]) => (
        <React.Fragment key={name}>
          <dt>{name}</dt>
          <dd>{said(value)}</dd>
        </React.Fragment>
      ))}
    </dl>
  ) : null;
}

function said(value: PartialJSONValue | undefined): string {
  if (value === null || value === undefined) {
    return '';
  }
  if (typeof value === 'number' && !Number.isInteger(value)) {
    return String(Number(value.toPrecision(6)));
  }
  if (Array.isArray(value)) {
    return `[${value.map(said).join(', ')}]`;
  }
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function nameOf(column: PartialJSONValue | undefined): string {
  return typeof column === 'object' && column !== null && !Array.isArray(column)
    ? said(column.name)
    : said(column);
}

function listOf(value: PartialJSONValue | undefined): ReadonlyArray<PartialJSONValue | undefined> {
  return Array.isArray(value) ? value : [];
}

function objectOf(value: PartialJSONValue | undefined): PartialJSONObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {};
}

function rest(value: PartialJSONObject, without: ReadonlyArray<string>): PartialJSONObject {
  return Object.fromEntries(Object.entries(value).filter(([name]) => !without.includes(name)));
}

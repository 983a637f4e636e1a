/**
 * What is left of a stored output before it is shown: nothing that fetches from elsewhere, nothing that acts.
 */

import type { PartialJSONObject } from '@lumino/coreutils';

import { FANOUT_MIME } from './fanout';

/** The types that are shown on a run's page; a specification that may name URLs (Vega, Plotly) is not among them. */
const SHOWN = new Set([
  FANOUT_MIME,
  'application/json',
  'image/gif',
  'image/jpeg',
  'image/png',
  'text/html',
  'text/latex',
  'text/markdown',
  'text/plain'
]);

const LOADING = [
  'src',
  'srcset',
  'poster',
  'background',
  'data',
  'action',
  'formaction',
  'xlink:href'
];

/** Keep the types of a display that are shown. */
export function shownTypes(output: PartialJSONObject): PartialJSONObject {
  const { transient, ...rest } = output;
  const data = rest.data as PartialJSONObject | undefined;
  if (!data) {
    return rest;
  }
  const kept = Object.entries(data).filter(([type]) => SHOWN.has(type));
  return { ...rest, data: Object.fromEntries(kept) };
}

/** Take from sanitised HTML whatever would load something when it is shown. Links stay: a user follows them. */
export function withoutLoading(html: string): string {
  const page = new DOMParser().parseFromString(html, 'text/html');
  for (const node of page.body.querySelectorAll('*')) {
    for (const name of LOADING) {
      const value = node.getAttribute(name);
      if (value !== null && !/^\s*(data:image\/(png|jpeg|gif);|attachment:)/i.test(value)) {
        node.removeAttribute(name);
        if (node.tagName === 'IMG') {
          node.replaceWith(node.getAttribute('alt') ?? '');
        }
      }
    }
    for (const { name } of [...node.attributes]) {
      if (name.startsWith('on') || name.startsWith('data-commandlinker')) {
        node.removeAttribute(name);
      }
    }
    if (/url\s*\(|image-set|@import|\\/i.test(node.getAttribute('style') ?? '')) {
      node.removeAttribute('style');
    }
    if (node.tagName === 'STYLE' || node.tagName === 'IFRAME' || node.tagName === 'SCRIPT') {
      node.remove();
    }
  }
  return page.body.innerHTML;
}

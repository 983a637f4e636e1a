/**
 * Outputs and markdown through JupyterLab's renderers, never trusted: what a run has stored may come from anybody.
 */

import type { IOutput } from '@jupyterlab/nbformat';
import { OutputAreaModel, SimplifiedOutputArea } from '@jupyterlab/outputarea';
import { IRenderMime, IRenderMimeRegistry, MimeModel } from '@jupyterlab/rendermime';
import { JSONExt, PartialJSONObject } from '@lumino/coreutils';
import { Widget } from '@lumino/widgets';
import * as React from 'react';

import { IMounted, Mounted } from '../components/mounted';
import { shownTypes, withoutLoading } from '../model/harmless';

type Outputs = ReadonlyArray<PartialJSONObject>;

export class Renderers {
  constructor(rendermime: IRenderMimeRegistry) {
    this._rendermime = rendermime.clone({ sanitizer: closed(rendermime.sanitizer) });
  }

  /** An element that shows outputs. */
  readonly outputs = (key: string, outputs: Outputs): JSX.Element => (
    <Mounted key={key} className="jp-mlb-Outputs" create={this._createOutputs} value={outputs} />
  );

  /** An element that shows markdown. */
  readonly markdown = (key: string, text: string): JSX.Element => (
    <Mounted key={key} className="jp-mlb-Markdown" create={this._createMarkdown} value={text} />
  );

  /** An element that shows Python with its colours: a fence longer than any run of backticks in it. */
  readonly code = (key: string, text: string): JSX.Element => {
    const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map(run => run.length));
    const fence = '`'.repeat(longest + 1);
    return this.markdown(key, `${fence}python\n${text}\n${fence}`);
  };

  private _createOutputs = (host: HTMLElement): IMounted<Outputs> => {
    const model = new OutputAreaModel({ trusted: false });
    const area = new SimplifiedOutputArea({
      model,
      rendermime: this._rendermime,
      contentFactory: SimplifiedOutputArea.defaultContentFactory
    });
    attach(area, host);
    let shown: Outputs = [];
    return {
      update: outputs => {
        if (JSONExt.deepEqual(shown as PartialJSONObject[], outputs as PartialJSONObject[])) {
          return;
        }
        shown = outputs;
        model.fromJSON(outputs.map(output => shownTypes(output) as IOutput));
      },
      dispose: () => {
        area.dispose();
        model.dispose();
      }
    };
  };

  private _createMarkdown = (host: HTMLElement): IMounted<string> => {
    const renderer = this._rendermime.createRenderer('text/markdown');
    attach(renderer, host);
    return {
      update: text => {
        const model = new MimeModel({ trusted: false, data: { 'text/markdown': text } });
        renderer.renderModel(model).catch(error => console.error(error));
      },
      dispose: () => renderer.dispose()
    };
  };

  private _rendermime: IRenderMimeRegistry;
}

/** A sanitiser that also leaves out what would load something. */
function closed(sanitizer: IRenderMime.ISanitizer): IRenderMime.ISanitizer {
  return {
    allowCommandLinker: false,
    allowNamedProperties: false,
    getAutolink: () => sanitizer.getAutolink?.() ?? true,
    sanitize: (dirty, options) => withoutLoading(sanitizer.sanitize(dirty, options))
  };
}

function attach(widget: Widget, host: HTMLElement): void {
  if (host.isConnected) {
    Widget.attach(widget, host);
  } else {
    host.appendChild(widget.node);
  }
}
